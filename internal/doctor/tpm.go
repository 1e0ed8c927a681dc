package doctor

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/tpm"
)

// checkTPMState looks at what other programs have set or caused in the TPM. It returns the state
// that the TPM reported, empty if it reported none.
func (d *doctor) checkTPMState(ctx context.Context) tpm.State {
	s, err := d.tpm.State(ctx)
	if err != nil {
		d.addError("tpm: state", err, "restore the access to the TPM first")
		return tpm.State{}
	}
	d.checkLockout(s.Lockout)
	d.checkOwner(s)
	d.checkBanks(s.Banks)
	return s
}

// checkLockout warns of a lockout, and when one more failed try or a few begin it. Keys that are
// made here have noDA and go on.
func (d *doctor) checkLockout(l tpm.Lockout) {
	const check = "tpm: lockout"
	recovery := fmt.Sprintf("one failed try is forgotten every %v", l.Forgets)
	if l.Forgets == 0 {
		recovery = "failed tries are not counted"
	}
	counted := fmt.Sprintf("%d of %d failed tries are counted; %s", l.Tries, l.Most, recovery)
	switch {
	case l.Active:
		d.add(check, VerdictWarn, "wait for that time, or end it: tpm2_dictionarylockout --clear-lockout, with --auth if the lockout hierarchy has a password; "+
			"then find the program that gives wrong passwords, or switch the VM off in an orderly way: a TPM that loses its power after a key without noDA was used counts that as a failed try",
			"keys without noDA, and keys under a parent without it, cannot be used: the TPM is in dictionary-attack lockout; %s", counted)
	case l.Tries > 0 && l.Tries+max(1, l.Most/4) >= l.Most:
		d.add(check, VerdictWarn, "find the program that gives wrong passwords, or switch the VM off in an orderly way; "+
			"tpm2_dictionarylockout --clear-lockout sets the count to 0",
			"it is near: %s", counted)
	default:
		d.add(check, VerdictOK, "", "%s", counted)
	}
}

// checkOwner says whether the owner hierarchy has a password and the agent has it.
func (d *doctor) checkOwner(s tpm.State) {
	const check = "tpm: owner password"
	if !s.OwnerPassword {
		d.add(check, VerdictOK, "", "the owner hierarchy has none")
		return
	}
	if name := d.cfg.TPMOwnerCredential; name != "" {
		if _, err := inputfile.Credential(name); err != nil {
			d.add(check, VerdictWarn, d.withCredentials(),
				"the owner hierarchy has one, which tpm_owner_credential names and this process cannot read: %v", err)
			return
		}
		d.add(check, VerdictOK, "", "the owner hierarchy has one, and tpm_owner_credential gives it to the agent")
		return
	}
	d.add(check, VerdictWarn, "name its credential in tpm_owner_credential; nothing, while the storage root is at a persistent handle, as storage root below says, and no key is to get a handle of its own",
		"the owner hierarchy has one: without it no storage root can be derived, and no key made persistent or removed from its handle")
}

// checkBanks looks whether the banks of PCRs are there that evidence and the agent's own key need.
// Keys that are bound to a bank that is off are reported with the keys.
func (d *doctor) checkBanks(banks []tpm.PCRBank) {
	const check = "tpm: pcr banks"
	var on, off []string
	for _, b := range banks {
		if len(b.PCRs) > 0 {
			on = append(on, b.Name)
		} else {
			off = append(off, b.Name)
		}
	}
	said := "none is on"
	if len(on) > 0 {
		said = "on: " + strings.Join(on, ", ")
	}
	if len(off) > 0 {
		said += "; off: " + strings.Join(off, ", ")
	}
	needs := d.lackingBanks(banks)
	for _, need := range needs {
		d.add(check, need.verdict, fmt.Sprintf("switch it on (tpm2_pcrallocate %s:all, or the firmware's settings) and restart the machine%s", need.bank, need.otherwise),
			"%s needs PCRs %v of bank %s, which are not there; %s", need.who, need.pcrs, need.bank, said)
	}
	switch {
	case len(needs) > 0:
	case len(on) == 0:
		d.add(check, VerdictWarn, "switch one on (tpm2_pcrallocate sha256:all, or the firmware's settings) and restart the machine", "%s: no key can be bound to PCRs, and nothing says how the machine booted", said)
	default:
		d.add(check, VerdictOK, "", "%s", said)
	}
}

// bankNeed is that something needs PCRs of a bank.
type bankNeed struct {
	who, bank          string
	pcrs               []int
	verdict, otherwise string
}

// lackingBanks lists the needed PCR banks that the TPM does not have.
func (d *doctor) lackingBanks(banks []tpm.PCRBank) []bankNeed {
	var needs []bankNeed
	if d.cfg.Attestation.Provider != config.ProviderNone && !d.cfg.BindingKey.InsecureSoftware {
		need := bankNeed{who: "evidence", bank: config.BankSHA256, pcrs: attest.DefaultPolicy().PCRs, verdict: VerdictFail,
			otherwise: "; without evidence (attestation.provider: none) no certificate is bound to attestation"}
		if d.opts.ConfigError != nil { // no configuration asks for evidence
			need.verdict = VerdictWarn
		}
		needs = append(needs, need)
	}
	if key := d.cfg.BindingKey; len(key.PCRs) > 0 {
		bank := config.BankSHA256
		if key.PCRBank != "" {
			bank = key.PCRBank
		}
		needs = append(needs, bankNeed{who: "binding_key of the configuration", bank: bank, pcrs: key.PCRs, verdict: VerdictFail, otherwise: ", or name another bank in binding_key.pcr_bank"})
	}
	return slices.DeleteFunc(needs, func(need bankNeed) bool {
		i := slices.IndexFunc(banks, func(b tpm.PCRBank) bool { return b.Name == need.bank })
		return i >= 0 && !slices.ContainsFunc(need.pcrs, func(pcr int) bool { return !slices.Contains(banks[i].PCRs, pcr) })
	})
}

// checkUnusedRoots looks for persistent storage keys that look as if the agent's keys were under
// them, and none is. The one that is the storage root protects the sessions, also where no key is
// under it.
func (d *doctor) checkUnusedRoots(ctx context.Context, state tpm.State, keys []keyring.KeyReport) {
	root, err := d.tpm.StorageRoot(ctx)
	if err != nil {
		return // it was said
	}
	const check = "storage root: not used"
	used := func(name []byte) bool {
		return slices.ContainsFunc(keys, func(r keyring.KeyReport) bool { return r.ParentName == hex.EncodeToString(name) })
	}
	loaded := slices.ContainsFunc(keys, func(r keyring.KeyReport) bool { return r.ParentName != "" })
	for _, s := range state.StorageKeys {
		isRoot := string(s.Name) == string(root.Name)
		switch {
		case used(s.Name):
		case isRoot && loaded:
			d.add(check, VerdictWarn, "nothing, if the keys are meant to be under another; keys that are made from now on are under this one",
				"the storage root at %s protects the sessions, and no key that loads is under it", fmt.Sprintf("0x%08x", uint32(s.Handle)))
		case isRoot:
		case s.Fault != nil:
			d.add(check, VerdictOK, "", "another program's storage key is at %s: %v", fmt.Sprintf("0x%08x", uint32(s.Handle)), s.Fault)
		default:
			d.add(check, VerdictWarn, "nothing, if another program uses it; the agent goes on with its own", "a storage root is at %s that is not the one which was noted, and no key is under it: the agent does not use it", fmt.Sprintf("0x%08x", uint32(s.Handle)))
		}
	}
}

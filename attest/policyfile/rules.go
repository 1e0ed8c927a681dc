package policyfile

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
)

// Version is the version of the format, which a file may state.
const Version = 1

// policyDigestSize is the size of an authPolicy, in bytes.
const policyDigestSize = 32

// maxPCR is the last PCR of a TPM of the PC Client profile.
const maxPCR = 23

// policy reads the whole file into p, which has the defaults.
func (d *decoder) policy(root *yaml.Node, p *Policy, read func(string) ([]byte, error)) {
	r := &p.Rules
	d.bank(root, r)
	known := members{
		"version":        func(n *yaml.Node) { d.version(n) },
		"tee":            func(n *yaml.Node) { r.TEE = d.atLeastOne(n, "tee", words(d, n, "tee", tees())) },
		"require":        func(n *yaml.Node) { d.require(n, r) },
		"vm_id":          func(n *yaml.Node) { r.VMID, _ = d.text(n, "vm_id", "write the vmUniqueId") },
		"max_age":        func(n *yaml.Node) { r.MaxAge = d.duration(n, "max_age") },
		"clock_window":   func(n *yaml.Node) { r.ClockWindow = d.duration(n, "clock_window") },
		"user_data":      func(n *yaml.Node) { r.UserData = d.digest(n, "user_data", hcl.UserDataSize) },
		"secure_boot":    func(n *yaml.Node) { r.RequireSecureBoot = d.flag(n, "secure_boot") },
		"pcrs":           func(n *yaml.Node) { d.pcrs(n, r) },
		"key":            func(n *yaml.Node) { d.key(n, &r.Key) },
		"ak_names":       func(n *yaml.Node) { r.AKNames = d.names(n) },
		"hardware_fresh": func(n *yaml.Node) { r.HardwareFresh = d.flag(n, "hardware_fresh") },
		"tdx":            func(n *yaml.Node) { d.tdx(n, &r.TDXPolicy, files{d, p, read}) },
		"sev_snp":        func(n *yaml.Node) { d.snp(n, &r.SNPPolicy) },
		"event_log":      func(n *yaml.Node) { d.eventLog(n, &r.EventLog, r.PCRBank) },
		"anchors":        func(n *yaml.Node) { d.anchors(n, p, read) },
	}
	d.mapping(root, "the policy", known)
}

func (d *decoder) version(n *yaml.Node) {
	if text, ok := d.text(n, "version", "write 1"); ok && text != strconv.Itoa(Version) {
		d.refuse(n, "write 1, or use a keyagent that knows this version", "version %.40q is not known", text)
	}
}

func tees() map[string]attest.Kind {
	return map[string]attest.Kind{"sev-snp": attest.KindSNP, "tdx": attest.KindTDX, "vtpm": attest.KindVTPM, "tpm": attest.KindTPM}
}

// atLeastOne refuses an empty list: it would take a rule away that its author meant to state.
func (d *decoder) atLeastOne(n *yaml.Node, name string, list []attest.Kind) []attest.Kind {
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		d.empty(n, name)
	}
	return list
}

// names reads Names of attestation keys: a hash algorithm, SHA-256, and a digest.
func (d *decoder) names(n *yaml.Node) [][]byte {
	const size = 2 + 32
	all := d.digests(n, "ak_names", size)
	for _, name := range all {
		if name[0] != 0 || name[1] != 0x0b {
			d.refuse(n, "write the Name that keyagent verify prints for the attestation key", "ak_names has %x, which does not begin with 000b", name)
		}
	}
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		d.empty(n, "ak_names")
	}
	return all
}

func (d *decoder) empty(n *yaml.Node, name string) {
	d.refuse(n, "write an entry, or leave the member out", "%s is an empty list", name)
}

// require adds checks to those that the default policy requires.
func (d *decoder) require(n *yaml.Node, r *attest.Policy) {
	known := map[string]string{}
	for _, name := range attest.CheckNames() {
		known[name] = name
	}
	for _, name := range words(d, n, "require", known) {
		if !slices.Contains(r.Required, name) {
			r.Required = append(r.Required, name)
		}
	}
}

// bank reads pcrs.bank before all else: how long other values are depends on it.
func (d *decoder) bank(root *yaml.Node, r *attest.Policy) {
	const name = "pcrs.bank"
	n := child(child(root, "pcrs"), "bank")
	if n == nil {
		return
	}
	for _, bank := range words(d, n, name, banks()) {
		r.PCRBank = bank
	}
	if n.Kind == yaml.SequenceNode {
		d.refuse(n, "write sha256 or sha384", "%s is a list", name)
	}
}

func banks() map[string]attest.PCRBank {
	all := map[string]attest.PCRBank{}
	for _, bank := range attest.PCRBanks() {
		all[bank.Name()] = bank
	}
	return all
}

// child returns a member of a mapping, or nil.
func child(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func (d *decoder) pcrs(n *yaml.Node, r *attest.Policy) {
	d.mapping(n, "pcrs", members{
		"bank": func(*yaml.Node) {}, // see bank
		"quoted": func(n *yaml.Node) {
			r.PCRs = nil
			d.list(n, "pcrs.quoted", func(entry *yaml.Node) {
				r.PCRs = append(r.PCRs, d.pcr(entry, "an entry of pcrs.quoted"))
			})
			slices.Sort(r.PCRs)
			r.PCRs = slices.Compact(r.PCRs)
			if len(r.PCRs) == 0 {
				d.empty(n, "pcrs.quoted")
			}
		},
		"values": func(n *yaml.Node) {
			r.PCRValues = map[int][][]byte{}
			d.entries(n, "pcrs.values", func(key, value *yaml.Node) {
				index := d.pcr(key, "a name in pcrs.values")
				name := "pcrs.values." + strconv.Itoa(index)
				r.PCRValues[index] = d.digests(value, name, r.PCRBank.Size())
				if len(r.PCRValues[index]) == 0 && value.Kind == yaml.SequenceNode {
					d.empty(value, name)
				}
			})
		},
	})
}

func (d *decoder) pcr(n *yaml.Node, name string) int {
	return int(d.number(n, name, 0, maxPCR)) //nolint:gosec // number keeps to the range
}

// attributes are the bits of TPMA_OBJECT by name (TPM 2.0 Part 2, 8.3.2).
func attributes() map[string]uint32 {
	return map[string]uint32{
		"fixedTPM": 1 << 1, "stClear": 1 << 2, "fixedParent": 1 << 4, "sensitiveDataOrigin": 1 << 5,
		"userWithAuth": 1 << 6, "adminWithPolicy": 1 << 7, "noDA": 1 << 10, "encryptedDuplication": 1 << 11,
		"restricted": 1 << 16, "decrypt": 1 << 17, "sign": 1 << 18, "x509sign": 1 << 19,
	}
}

// permitted are the attributes that a policy may allow a binding key: none of them lets it leave
// its TPM.
func permitted() map[string]uint32 {
	all := attributes()
	return map[string]uint32{
		"adminWithPolicy": all["adminWithPolicy"], "decrypt": all["decrypt"],
		"stClear": all["stClear"], "x509sign": all["x509sign"],
	}
}

func (d *decoder) key(n *yaml.Node, k *attest.KeyPolicy) {
	d.mapping(n, "key", members{
		"require": func(n *yaml.Node) {
			for _, bit := range words(d, n, "key.require", attributes()) {
				k.RequiredAttributes |= bit
			}
		},
		"forbid": func(n *yaml.Node) {
			for _, bit := range words(d, n, "key.forbid", attributes()) {
				k.ForbiddenAttributes |= bit
			}
		},
		"permit": func(n *yaml.Node) {
			for _, bit := range words(d, n, "key.permit", permitted()) {
				k.ForbiddenAttributes &^= bit
			}
		},
		"auth_policies":  func(n *yaml.Node) { d.authPolicies(n, k) },
		"null_hierarchy": func(n *yaml.Node) { k.AllowNullHierarchy = d.flag(n, "key.null_hierarchy") },
	})
	var both []string
	for name, bit := range attributes() {
		if k.RequiredAttributes&k.ForbiddenAttributes&bit != 0 {
			both = append(both, name)
		}
	}
	if len(both) > 0 {
		slices.Sort(both)
		d.refuse(n, "no key can meet that: take it out of one of them", "key both requires and forbids %s", strings.Join(both, ", "))
	}
}

func (d *decoder) authPolicies(n *yaml.Node, k *attest.KeyPolicy) {
	if n.Kind == yaml.ScalarNode && n.Value == "any" {
		k.AnyAuthPolicy = true
		return
	}
	k.AuthPolicies = d.digests(n, "key.auth_policies", policyDigestSize)
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/rulebook"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// Verdicts of a [Finding].
const (
	VerdictOK   = "ok"
	VerdictWarn = "warn" // it works, and the operator should know
	VerdictFail = "fail" // something does not work
)

// Finding is the result of one check.
type Finding struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"`
	Detail  string `json:"detail"`
	Action  string `json:"action,omitempty"` // what to do; empty: nothing
}

// Diagnosis is what the checks of [Diagnose] found.
type Diagnosis struct {
	OK       bool      `json:"ok"` // nothing failed
	Findings []Finding `json:"findings"`
}

// Options say what to diagnose.
type Options struct {
	statedir.Options
	Version     string
	ConfigPath  string
	ConfigError error // of the configuration; parts that could not be read have their defaults then
	ConfigNamed bool  // the operator named it: then it should be there
	TPMNamed    bool  // the operator named the TPM beside the configuration
	DirNamed    bool  // ... and the state directory
	// Forms is what the running agent says of the forms of credentials; nil if none answers.
	Forms []wire.Form

	// AskAgent asks the agent at a socket for its status; nil: no agent is asked.
	AskAgent func(ctx context.Context, socket string) (wire.Status, error)
}

// Diagnose looks at all that the agent and its keys need on this machine. It changes nothing, and
// uses the TPM of the configuration but not the network. For another user than the agent's it
// returns one finding, which says so. It blocks for as long as TPM and agent take to answer.
func Diagnose(ctx context.Context, cfg *config.Config, opts Options) Diagnosis {
	opts.Options = opts.WithDefaults()
	own := *cfg // what the running agent says may change it
	d := &doctor{cfg: &own, opts: opts}
	if d.checkUser(ctx) {
		d.checkAll(ctx)
	}
	diagnosis := Diagnosis{OK: true, Findings: d.findings}
	for _, f := range d.findings {
		diagnosis.OK = diagnosis.OK && f.Verdict != VerdictFail
	}
	return diagnosis
}

func (d *doctor) checkAll(ctx context.Context) {
	d.askAgent(ctx)
	d.goByAgent()
	d.checkConfig()
	d.checkBindingSettings()
	present := d.checkStateDir()
	d.checkSocket()
	d.checkAgent()
	d.checkCallers()
	d.checkTakeover(ctx)
	d.checkAudit()
	if d.checkTPM(ctx) {
		defer d.tpm.Close()
		state := d.checkTPMState(ctx)
		if d.checkStorageRoot(ctx) { // else no key can be loaded
			keys := d.checkKeys(ctx, present)
			d.checkUnusedRoots(ctx, state, keys)
		}
	}
	d.checkForms()
}

type doctor struct {
	cfg      *config.Config
	opts     Options
	running  *wire.Status // of the agent that answers; nil: none does
	askErr   error        // why it does not
	noTPM    bool         // which TPM is meant is not known
	noDir    bool         // ... which state directory
	tpm      *tpm.TPM
	pinFile  string
	noted    []byte
	pinErr   error // of reading the note of the storage root
	findings []Finding
}

func (d *doctor) add(check, verdict, action, format string, args ...any) {
	d.findings = append(d.findings, Finding{Check: check, Verdict: verdict, Detail: fmt.Sprintf(format, args...), Action: action})
}

// addError adds a failure, with the hint that the error has.
func (d *doctor) addError(check string, err error, otherwise string) {
	if todo, ok := advice.Of(err); ok {
		otherwise = todo.Text(d.opts.Words)
	}
	d.add(check, VerdictFail, otherwise, "%v", err)
}

func (d *doctor) checkConfig() {
	if err := d.opts.ConfigError; errors.Is(err, fs.ErrNotExist) && !d.opts.ConfigNamed {
		d.add("configuration", VerdictWarn, "nothing, for keys alone; the agent needs one: see docs/configuration.md",
			"%s does not exist; the defaults hold", d.opts.ConfigPath)
		return
	} else if off, ok := errors.AsType[*rulebook.OffError](err); ok {
		d.addRulesOff(off)
	} else if err != nil && d.running != nil {
		d.add("configuration", VerdictFail, d.opts.Say("the agent runs on with the configuration before: correct the file (%s says what is wrong), then kill -HUP %d",
			advice.Run(advice.CheckConfiguration, ""), d.running.PID), "%v", err)
		return
	} else if err != nil {
		d.addError("configuration", err, d.opts.Say("write one, or correct it: %s says what is wrong; without it the agent does not start",
			advice.Run(advice.CheckConfiguration, "")))
		return
	}
	d.add("configuration", VerdictOK, "", "%s: identities: %d, rules: %d", d.opts.ConfigPath, len(d.cfg.Identities), len(d.cfg.Rules))
}

// addRulesOff adds what the agent does without.
func (d *doctor) addRulesOff(off *rulebook.OffError) {
	for _, r := range off.Rules {
		d.add("rule", VerdictFail, "correct the rule, or create its users and groups: the agent looks again every half minute and puts it in force then; until then it gives no token",
			"%q is not in force: %v", r.Name, r.Err)
	}
	if off.Admins != nil {
		d.add("admins", VerdictFail, "correct the list, or create its users and groups: the agent looks again every half minute", "some were not found: %v", off.Admins)
	}
}

// unread reports whether there is a configuration that cannot be used: what it says is not known,
// and the defaults are nobody's choice.
func (d *doctor) unread() bool {
	err := d.opts.ConfigError
	_, rulesOff := errors.AsType[*rulebook.OffError](err)
	return err != nil && !rulesOff && (d.opts.ConfigNamed || !errors.Is(err, fs.ErrNotExist))
}

// goByAgent takes from the running agent what a configuration that cannot be used would have said.
func (d *doctor) goByAgent() {
	if !d.unread() {
		return
	}
	d.noTPM, d.noDir = !d.opts.TPMNamed, !d.opts.DirNamed
	if d.running == nil {
		return
	}
	if d.noTPM && d.running.TPM.Device != "" {
		d.noTPM = false
		if d.cfg.TPM = d.running.TPM.Device; d.cfg.TPM == wire.NoTPM {
			d.cfg.BindingKey.InsecureSoftware, d.noTPM = true, true
		}
	}
	if d.noDir && d.running.StateDir != "" {
		d.cfg.StateDir, d.noDir = d.running.StateDir, false
	}
}

// notChecked reports that a check was not made, because the configuration cannot be used.
func (d *doctor) notChecked(check string) {
	d.add(check, VerdictWarn, "correct the configuration first", "not checked: the configuration that names it cannot be used")
}

func (d *doctor) checkBindingSettings() {
	if d.cfg.BindingKey.InsecureSoftware {
		d.add("software key", VerdictWarn, "remove binding_key.insecure_software from the configuration wherever it matters",
			"the agent's key is in a file in the clear, and anyone who can read that has it: it is for development only")
	}
}

// checkStateDir reports whether the directory is there and ours.
func (d *doctor) checkStateDir() bool {
	if d.noDir {
		d.notChecked("state directory")
		return false
	}
	dir := d.cfg.StateDir
	defer d.checkRoom("state directory", dir)
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		d.add("state directory", VerdictWarn, "nothing, if the agent was never started here; else look at state_dir in the configuration",
			"%s does not exist; it is made when it is needed", dir)
		return false
	}
	if err == nil && info.IsDir() {
		err = statedir.CheckOwner(dir)
	}
	if err == nil {
		err = statefile.EnsureDir(dir) // it is there: nothing is made
	}
	if err != nil {
		d.addError("state directory", err, "do what it says: the agent does not take keys that others could have put there")
		return false
	}
	d.add("state directory", VerdictOK, "", "%s belongs to this user alone", dir)
	return true
}

// lookTimeout bounds what the diagnosis waits for a TPM that may not answer at all.
const lookTimeout = 10 * time.Second

// checkTPM opens the TPM and leaves it open.
func (d *doctor) checkTPM(ctx context.Context) bool {
	if d.noTPM || d.noDir { // a storage root is the one that was noted, or any
		d.notChecked("tpm")
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	d.noted, d.pinErr = statedir.Noted(d.cfg.StateDir)
	d.pinFile = statedir.RootFile(d.cfg.StateDir)
	t, err := tpm.Open(ctx, tpm.Config{Device: d.cfg.TPM, Logger: d.opts.Logger, StorageRoot: d.noted, OwnerAuth: statedir.OwnerAuth(d.cfg), Waiting: d.opts.Waits.Begin})
	if err == nil {
		d.tpm = t
		var p tpm.Properties
		if p, err = t.Properties(ctx); err == nil {
			d.add("tpm", VerdictOK, "", "%s: %s, firmware %s", d.cfg.TPM, p.Manufacturer, p.FirmwareVersion)
			return true
		}
		err = errors.Join(err, t.Close())
	}
	verdict, action := VerdictFail, "without its TPM the agent does not start"
	if d.cfg.BindingKey.InsecureSoftware {
		verdict, action = VerdictWarn, "nothing: with a software key, none is used"
	}
	late := ""
	if errors.Is(err, context.DeadlineExceeded) {
		late = fmt.Sprintf("it has not answered within %v: ", lookTimeout)
	}
	d.add("tpm", verdict, action, "%s%v", late, err)
	return false
}

// checkStorageRoot reports whether keys can be loaded.
func (d *doctor) checkStorageRoot(ctx context.Context) bool {
	const check = "storage root"
	root, err := d.tpm.TryStorageRoot(ctx)
	parent, missing := errors.AsType[*tpm.ParentError](err)
	switch {
	case missing && !parent.Lost():
		d.add(check, VerdictFail, statedir.Restoring(parent).Text(d.opts.Words), "%v", err)
		return false
	case errors.Is(err, tpm.ErrStorageRoot):
		d.add(check, VerdictFail, statedir.OtherTPM().Text(d.opts.Words),
			"it is not the one that these keys were made under: %v", err)
		return false
	case err != nil && d.pinErr == nil && !statedir.HasKeys(d.cfg, d.opts.Options):
		d.addError(check, err, "there is no key yet that could be under it: remove "+d.pinFile+", and another root is taken")
		return false
	case err != nil:
		d.addError(check, err, "keys cannot be made or loaded without it")
		return false
	case root.Restore != "":
		d.add(check, VerdictWarn, "this line, run as root, puts it back to where it need not be made:\n"+root.Restore,
			"%s, the one that was noted; it is not at a persistent handle any more and is made anew each time, which can take a TPM many seconds", root.Algorithm)
	case errors.Is(d.pinErr, fs.ErrNotExist):
		d.add(check, VerdictOK, "", "%s, not noted yet: the first key notes it, and no other is accepted then", root.Algorithm)
	case errors.Is(d.pinErr, statedir.ErrDamaged):
		d.add(check, VerdictWarn, "find out who damaged it; the next use of a key puts it aside and accepts the root that the TPM shows then", "the note of it, %s, is damaged", d.pinFile)
	case d.pinErr != nil:
		d.addError(check, d.pinErr, "the note says which TPM the keys belong to: make it readable")
	default:
		d.add(check, VerdictOK, "", "%s, the one that was noted", root.Algorithm)
	}
	return true
}

// checkKeys looks at every key that there is, and returns what it saw.
func (d *doctor) checkKeys(ctx context.Context, present bool) []keyring.KeyReport {
	store, err := keystore.Open(keystore.Config{StateDir: d.cfg.StateDir, Now: d.opts.Now, Logger: d.opts.Logger})
	if err != nil {
		d.addError("keys", err, "do what it says: the agent does not take keys that others could have put there")
		return nil
	}
	if names, err := store.Names(); !present || err == nil && len(names) == 0 {
		d.missingBindingKey()
		d.checkCredentials(nil)
		return nil
	}
	k := keyring.On(d.tpm, store, d.cfg, d.opts.Options)
	reports, err := k.Show(ctx, "", keyring.AuthSource{})
	if err != nil {
		d.addError("keys", err, "")
		return nil
	}
	found := false
	for _, r := range reports {
		found = found || r.Name == statedir.BindingKeyName
		d.checkKey(r)
	}
	d.checkCredentials(reports)
	if !found {
		d.missingBindingKey()
		return reports
	}
	d.checkBindingKey(ctx, store)
	return reports
}

func (d *doctor) missingBindingKey() {
	if !d.cfg.BindingKey.InsecureSoftware {
		d.add("key "+statedir.BindingKeyName, VerdictOK, "", "the agent's own key is not there yet; its first start makes it")
	}
}

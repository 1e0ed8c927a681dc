package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/statedir"
)

// askTimeout bounds what the diagnosis waits for the running agent.
const askTimeout = 15 * time.Second

// checkAgent compares the agent that runs with what is on the disk: what was changed there since
// may not be in force.
func (d *doctor) checkAgent(ctx context.Context) {
	const check = "running agent"
	if d.opts.AskAgent == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	status, err := d.opts.AskAgent(ctx, d.cfg.Socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		d.add(check, VerdictOK, "", "none: nobody answers at %s", d.cfg.Socket)
		return
	case err != nil:
		d.addError(check, err, "see the agent's log; restart it if it hangs")
		return
	case !status.Ready:
		d.add(check, VerdictWarn, d.opts.Say("%s says more", advice.Run(advice.ShowStatus, "")), "pid %d is not ready: %s", status.PID, strings.Join(status.NotReady, "; "))
	default:
		d.add(check, VerdictOK, "", "pid %d is ready", status.PID)
	}
	d.checkDrift(check, status)
}

// checkDrift adds a warning for each thing in which the running agent differs from the disk.
func (d *doctor) checkDrift(check string, running wire.Status) {
	differs := func(what, action, format string, args ...any) {
		d.add(check+": "+what, VerdictWarn, action, format, args...)
	}
	const restart = "restart the agent; until then it goes on as it was started"
	if changed := d.configChanged(); changed.After(inForceSince(running)) {
		differs("configuration", restart, "%s was changed at %s, and the agent took it at %s", d.opts.ConfigPath,
			changed.UTC().Format(time.RFC3339), inForceSince(running).UTC().Format(time.RFC3339))
	}
	if running.Version != d.opts.Version {
		differs("version", restart, "it is %s, and this program is %s", onALine(running.Version), d.opts.Version)
	}
	if device := running.TPM.Device; device != d.cfg.TPM && !d.cfg.BindingKey.InsecureSoftware {
		differs("tpm", restart, "it uses %s, and the configuration says %s", onALine(device), d.cfg.TPM)
	}
	if generation, name := d.bindingKeyOnDisk(); name != "" && name != running.Key.Name {
		differs("key", "restart the agent: it goes on with the old key until then, and the certificates of the new one are not used",
			"it uses generation %d of its key, and the one in use on the disk is generation %d", running.Key.Generation, generation)
	}
}

// inForceSince is when the agent took the configuration that it goes by.
func inForceSince(running wire.Status) time.Time { return running.Configuration.Since }

// configChanged is when the configuration was last written; zero if there is none.
func (d *doctor) configChanged() time.Time {
	info, err := os.Stat(d.opts.ConfigPath)
	if err != nil || d.opts.ConfigError != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// bindingKeyOnDisk returns the generation of the agent's own key that its next start would use, and
// its Name in hexadecimal; "" if there is none that can be read, which the check of the keys tells.
func (d *doctor) bindingKeyOnDisk() (generation int, name string) {
	store, err := statedir.OpenStore(d.cfg, d.opts.Options)
	if err != nil || d.cfg.BindingKey.InsecureSoftware {
		return 0, ""
	}
	entry, err := store.Current(statedir.BindingKeyName)
	if err != nil {
		return 0, ""
	}
	file, err := store.ReadKeyFile(entry)
	if err != nil {
		return 0, ""
	}
	key, err := file.Name()
	if err != nil {
		return 0, ""
	}
	return entry.Generation, hex.EncodeToString(key)
}

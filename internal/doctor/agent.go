package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/statefile"
)

// askTimeout bounds what the diagnosis waits for the running agent.
const askTimeout = 10 * time.Second

// askAgent asks the running agent for its status.
func (d *doctor) askAgent(ctx context.Context) {
	if d.opts.AskAgent == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	status, err := d.opts.AskAgent(ctx, d.cfg.Socket)
	if err != nil {
		d.askErr = err
		return
	}
	d.running = &status
}

// checkAgent compares the agent that runs with the files on disk: changes since its start or last
// reload may not be in force.
func (d *doctor) checkAgent() {
	const check = "running agent"
	switch err := d.askErr; {
	case d.opts.AskAgent == nil:
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		d.agentElsewhere(check)
	case err != nil:
		d.addError(check, err, "see the agent's log; restart it if it hangs")
	case !d.running.Ready:
		d.add(check, VerdictWarn, d.opts.Say("%s says more", advice.Run(advice.ShowStatus, "")), "pid %d is not ready: %s", d.running.PID, strings.Join(d.running.NotReady, "; "))
		if !d.running.Configuration.Since.IsZero() { // else it has none, and serves nothing
			d.checkDrift(check, *d.running)
		}
	default:
		d.add(check, VerdictOK, "", "pid %d is ready", d.running.PID)
		d.checkDrift(check, *d.running)
	}
	d.checkSockets()
}

// checkSockets adds the endpoints that are configured, and off because systemd passed no socket.
func (d *doctor) checkSockets() {
	if d.running == nil {
		return
	}
	for _, name := range d.running.SocketsMissing {
		d.add("socket "+onALine(name), VerdictWarn, fmt.Sprintf("systemctl enable keyagent-%s.socket, then restart the agent, which opens it; or take it out of endpoints", onALine(name)),
			"it is configured and off: systemd passes no socket for it to the agent, which opens none itself")
	}
}

// agentElsewhere tells no agent from one that has the state directory and another socket.
func (d *doctor) agentElsewhere(check string) {
	if !d.noDir {
		if held := statefile.Holder(d.cfg.StateDir); held != nil {
			d.add(check, VerdictWarn, d.opts.Say("name the agent's socket, as its command line or its configuration has it: %s", advice.Run(advice.Diagnose, "", advice.Socket)),
				"agent %d runs with the state directory %s, but not at this socket: nobody answers at %s", held.PID, d.cfg.StateDir, d.cfg.Socket)
			return
		}
	}
	d.add(check, VerdictOK, "", "none: nobody answers at %s", d.cfg.Socket)
}

// checkDrift adds a warning for each thing in which the running agent differs from the disk. It
// cannot be compared with a configuration on disk that cannot be used.
func (d *doctor) checkDrift(check string, running wire.Status) {
	differs := func(what, action, format string, args ...any) {
		d.add(check+": "+what, VerdictWarn, action, format, args...)
	}
	const restart = "restart the agent; until then it goes on as it was started"
	d.checkReload(check+": configuration", running)
	if running.Version != d.opts.Version {
		differs("version", restart, "it is %s, and this program is %s", onALine(running.Version), d.opts.Version)
	}
	if d.unread() {
		return
	}
	if device := running.TPM.Device; device != d.cfg.TPM && !d.cfg.BindingKey.InsecureSoftware {
		differs("tpm", restart, "it uses %s, and the configuration says %s", onALine(device), d.cfg.TPM)
	}
	if dir := running.StateDir; dir != "" && filepath.Clean(dir) != filepath.Clean(d.cfg.StateDir) {
		differs("state directory", restart, "it uses %s, and the configuration says %s", onALine(dir), d.cfg.StateDir)
		return // other keys are compared with its own
	}
	if generation, name := d.bindingKeyOnDisk(); name != "" && name != running.Key.Name {
		differs("key", "restart the agent: it goes on with the old key until then, and the certificates of the new one are not used",
			"it uses generation %d of its key, and the one in use on the disk is generation %d", running.Key.Generation, generation)
	}
}

// checkReload says what keeps a changed configuration from being in force: nobody has asked for it,
// or it was refused.
func (d *doctor) checkReload(check string, running wire.Status) {
	changed, last := d.configChanged(), running.Configuration.LastReload
	switch {
	case last != nil && last.Error != "" && !changed.After(last.At):
		action := fmt.Sprintf("correct the file, then kill -HUP %d", running.PID)
		if strings.Contains(last.Error, "restart the agent") {
			action = "restart the agent, or take the change back and kill -HUP " + strconv.Itoa(running.PID)
		}
		d.add(check, VerdictWarn, action+"; until then the configuration before stays in force", "the last reload (%s, at %s) was refused: %s",
			last.Cause, last.At.UTC().Format(time.RFC3339), strings.ReplaceAll(last.Error, "\n", "; "))
	case changed.After(inForceSince(running)):
		d.add(check, VerdictWarn, fmt.Sprintf("kill -HUP %d; until then the configuration before stays in force. For what a reload refuses, restart the agent", running.PID),
			"%s was changed at %s, and the agent took it at %s", d.opts.ConfigPath, changed.UTC().Format(time.RFC3339), inForceSince(running).UTC().Format(time.RFC3339))
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

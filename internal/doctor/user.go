package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/owned"
)

// checkUser reports whether this is the agent's user, or may be. Another user, root included, has
// other permissions than the agent: the checks would report faults that the agent does not have,
// and their advice would cause some.
func (d *doctor) checkUser(ctx context.Context) bool {
	const check = "user"
	me := uint32(os.Geteuid()) //nolint:gosec // a uid
	owner, found := d.agentUser(ctx)
	switch {
	case found && owner.uid == me:
		return true
	case found:
		d.add(check, VerdictFail, d.opts.Say("run it as that user: sudo -u %s %s. Nothing else was checked: what this user sees is not what the agent sees. "+
			"Do not change owners or modes for this%s", accounts.SudoName(owner.uid), advice.Run(advice.Diagnose, ""), d.unlessMadeByRoot(owner, me)),
			"this is %s, and %s %s", userText(me), owner.why, userText(owner.uid))
		return false
	}
	if path := d.unreadable(); path != "" {
		d.add(check, VerdictFail, d.opts.Say("run it as the user that the agent runs as (User= of its systemd unit): sudo -u USER %s. Nothing else was checked. "+
			"If this is that user, let them read it", advice.Run(advice.Diagnose, "")),
			"this is %s, who may not read %s", userText(me), path)
		return false
	}
	if me == 0 {
		d.add(check, VerdictWarn, "nothing, if the agent is to run as root; else run it as the user that it is to run as: root may do what that user may not",
			"this is root, and nothing says yet which user runs the agent")
	}
	return true
}

// agentOwner is the user that the agent runs as, and how that was found out.
type agentOwner struct {
	uid          uint32
	why          string
	ofFilesAlone bool // no agent answers and no configuration says so: the state directory belongs to this user
}

// agentUser finds out which user the agent runs as: the one whose process listens at its socket,
// else the owner of what only the agent may own.
func (d *doctor) agentUser(ctx context.Context) (owner agentOwner, found bool) {
	if uid, ok := listenerUID(ctx, d.cfg.Socket); ok {
		return agentOwner{uid: uid, why: fmt.Sprintf("the agent that answers at %s runs as", d.cfg.Socket)}, true
	}
	if uid, ok := d.configOwner(); ok {
		return agentOwner{uid: uid, why: fmt.Sprintf("the configuration %s belongs to", d.opts.ConfigPath)}, true
	}
	if d.unread() && !d.opts.DirNamed {
		return agentOwner{}, false // the default may be another agent's
	}
	info, err := os.Stat(d.cfg.StateDir)
	if err != nil || !info.IsDir() {
		return agentOwner{}, false
	}
	uid, err := owned.Owner(info)
	return agentOwner{uid, fmt.Sprintf("the state directory %s belongs to", d.cfg.StateDir), true}, err == nil
}

// configOwner returns the owner of a configuration, or of a directory on the way to it, that was
// refused because it is another user's. A file of root says nothing about the agent's user.
func (d *doctor) configOwner() (uint32, bool) {
	refused, ok := errors.AsType[*config.Error](d.opts.ConfigError)
	if !ok {
		return 0, false
	}
	info, err := os.Stat(refused.File)
	if err != nil {
		return 0, false
	}
	uid, err := owned.Owner(info)
	return uid, err == nil && uid != 0 && !owned.Ours(uid)
}

// unreadable returns what of the agent's own this user may not even look at.
func (d *doctor) unreadable() string {
	if errors.Is(d.opts.ConfigError, fs.ErrPermission) {
		return d.opts.ConfigPath
	}
	if _, err := os.Stat(d.cfg.StateDir); errors.Is(err, fs.ErrPermission) {
		return d.cfg.StateDir
	}
	return ""
}

// unlessMadeByRoot adds another possible cause if another user looks at a directory that belongs to
// root. It does not if an agent runs as root: a change of owner would break that.
func (d *doctor) unlessMadeByRoot(owner agentOwner, me uint32) string {
	if !owner.ofFilesAlone || owner.uid != 0 || me == 0 {
		return ""
	}
	return d.opts.Say(", unless %[1]s is the agent's user and root has made the directory by mistake, as with sudo %[2]s: then look what is in it, and chown -R %[1]s it",
		accounts.NameOf(me), advice.Run(advice.CreateKey, ""))
}

// listenerUID returns the user of the process that listens at a socket (unix(7), SO_PEERCRED). A
// service manager that listens for another one says nothing about that one.
func listenerUID(ctx context.Context, socket string) (uint32, bool) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, false
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, false
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) // #nosec G115 -- a descriptor fits
	}); err != nil || credErr != nil || cred.Pid == 1 {
		return 0, false
	}
	return cred.Uid, true
}

func userText(uid uint32) string { return fmt.Sprintf("user %s (uid %d)", accounts.NameOf(uid), uid) }

// withCredentials says how a diagnosis gets what systemd gives to the agent.
func (d *doctor) withCredentials() string {
	return d.opts.Say("run it with the agent's credentials: systemd-run --pty -p LoadCredential=… %s", advice.Run(advice.Diagnose, ""))
}

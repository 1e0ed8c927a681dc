package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/owned"
)

// checkUser reports whether this is the agent's user, or may be. Another user, root included, sees other rights than the agent has: they
// would be told of faults that the agent does not have, and advised to bring them about.
func (d *doctor) checkUser(ctx context.Context) bool {
	const check = "user"
	me := uint32(os.Geteuid()) //nolint:gosec // a uid
	owner, found := d.agentUser(ctx)
	switch {
	case found && owner.uid == me:
		return true
	case found:
		d.add(check, VerdictFail, fmt.Sprintf("run it as that user: sudo -u %s keyagent doctor. Nothing else was checked: what this user sees is not what the agent sees. "+
			"Do not change owners or modes for this%s", sudoName(owner.uid), owner.unlessMadeByRoot(me)),
			"this is %s, and %s %s", userText(me), owner.why, userText(owner.uid))
		return false
	}
	if path := d.unreadable(); path != "" {
		d.add(check, VerdictFail, "run it as the user that the agent runs as (User= of its systemd unit): sudo -u USER keyagent doctor. Nothing else was checked. "+
			"If this is that user, let them read it",
			"this is %s, who may not read %s", userText(me), path)
		return false
	}
	if me == 0 {
		d.add(check, VerdictWarn, "nothing, if the agent is to run as root; else run it as the user that it is to run as: root may do what that user may not",
			"this is root, and nothing says yet as whom the agent runs")
	}
	return true
}

// agentOwner is as whom the agent runs, and how that was found out.
type agentOwner struct {
	uid          uint32
	why          string
	ofFilesAlone bool // nothing runs that says so: its state directory belongs to them
}

// agentUser finds out as whom the agent runs: whoever answers at its socket, else whoever owns what only the agent may own.
func (d *doctor) agentUser(ctx context.Context) (owner agentOwner, found bool) {
	if uid, ok := listenerUID(ctx, d.cfg.Socket); ok {
		return agentOwner{uid: uid, why: fmt.Sprintf("the agent that answers at %s runs as", d.cfg.Socket)}, true
	}
	if uid, ok := d.configOwner(); ok {
		return agentOwner{uid: uid, why: fmt.Sprintf("the configuration %s belongs to", d.opts.ConfigPath)}, true
	}
	info, err := os.Stat(d.cfg.StateDir)
	if err != nil || !info.IsDir() {
		return agentOwner{}, false
	}
	uid, err := owned.Owner(info)
	return agentOwner{uid, fmt.Sprintf("the state directory %s belongs to", d.cfg.StateDir), true}, err == nil
}

// configOwner returns the owner of a configuration, or of a directory on the way to it, that was refused because it is another user's.
// Root's is anybody's.
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

// unlessMadeByRoot says what else it may be if a directory of root's is looked at by somebody else. An agent that runs as root is no
// mistake of anybody's: whoever changed its directory's owner would break it.
func (o agentOwner) unlessMadeByRoot(me uint32) string {
	if !o.ofFilesAlone || o.uid != 0 || me == 0 {
		return ""
	}
	return fmt.Sprintf(", unless %s is the agent's user and root has made the directory by mistake, as with sudo keyagent key create: then look what is in it, and chown -R %[1]s it", userName(me))
}

// listenerUID returns the user of the process that listens at a socket (unix(7), SO_PEERCRED). A service manager that listens for
// another one says nothing about that one.
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

// userName is the name of a user, or their number if nobody knows it.
func userName(uid uint32) string {
	if name, known := (accounts.Finder{}).NameOf(uid); known {
		return name
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// sudoName is how sudo(8) takes a user.
func sudoName(uid uint32) string {
	if name := userName(uid); name != strconv.FormatUint(uint64(uid), 10) {
		return name
	}
	return fmt.Sprintf("'#%d'", uid)
}

func userText(uid uint32) string { return fmt.Sprintf("user %s (uid %d)", userName(uid), uid) }

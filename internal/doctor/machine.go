package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/internal/owned"
	"github.com/keyagent/keyagent/internal/shell"
)

const (
	// A rotation writes some 20 KB. A file system with less room than scarceBytes will be full
	// soon; with less than tooFewBytes a rotation may fail half way.
	scarceBytes  = 64 << 20
	tooFewBytes  = 1 << 20
	tooFewInodes = 16
)

// checkRoom looks whether files can be written in a directory, or where it would be made.
func (d *doctor) checkRoom(what, dir string) {
	check := what + ": disk"
	at := existingParent(dir)
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil {
		d.add(check, VerdictWarn, "see that this user may look there", "%s: %v", at, err)
		return
	}
	verdict, detail := roomIn(fs)
	d.add(check, verdict, roomAction(verdict), "%s: %s", at, detail)
}

// existingParent returns the directory, or the nearest of its parents that exists.
func existingParent(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// roomIn tells how much room a file system has left (statfs(2)).
func roomIn(fs unix.Statfs_t) (verdict, detail string) {
	free := fs.Bavail * uint64(fs.Bsize) //nolint:gosec // the size of a block
	detail = fmt.Sprintf("%d MB are free", free>>20)
	switch {
	case fs.Flags&unix.ST_RDONLY != 0:
		return VerdictFail, "its file system is read-only"
	case fs.Blocks > 0 && free < tooFewBytes:
		return VerdictFail, fmt.Sprintf("its file system is full: %d KB are free", free>>10)
	case fs.Files > 0 && fs.Ffree < tooFewInodes: // some file systems count no inodes
		return VerdictFail, fmt.Sprintf("its file system has room for %d files only", fs.Ffree)
	case fs.Blocks > 0 && free < scarceBytes:
		return VerdictWarn, detail
	}
	return VerdictOK, detail
}

func roomAction(verdict string) string {
	switch verdict {
	case VerdictFail:
		return "make room, or mount it read-write: keys and certificates cannot be made or replaced; those that are there go on to work"
	case VerdictWarn:
		return "make room before it is full: keys and certificates could then not be made or replaced"
	}
	return ""
}

// checkSocket looks at the directory of the agent's socket.
func (d *doctor) checkSocket() {
	const check = "socket directory"
	if d.unread() && d.running == nil {
		return // which socket is meant is not known
	}
	dir := filepath.Dir(d.cfg.Socket)
	err := agentapi.CheckDir(d.cfg.Socket)
	if errors.Is(err, fs.ErrNotExist) {
		d.missingSocketDir(check, dir)
		return
	}
	if err != nil {
		d.addError(check, err, "do what it says: nobody may be able to put another socket in the place of the agent's. "+d.rightSocketDir())
		return
	}
	d.checkRoom("socket directory", dir)
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		d.addError(check, err, "see that this user may look there")
	case unix.Access(dir, unix.W_OK|unix.X_OK) != nil && !rootsSocket(info, d.cfg.Socket):
		d.add(check, VerdictFail, d.rightSocketDir(), "%s: this user may not make a socket there, and there is none of systemd's", dir)
	case info.Mode().Perm()&0o001 == 0:
		d.add(check, VerdictWarn, "nothing, if only its owner and group are to reach the agent; else chmod 0755 "+shell.Word(dir),
			"%s has mode %04o: other users cannot reach the socket in it, whatever the rules say", dir, info.Mode().Perm())
	case rootsSocket(info, d.cfg.Socket):
		d.add(check, VerdictOK, "", "%s is root's: the socket in it is systemd's, and callers can reach it", dir)
	default:
		d.add(check, VerdictOK, "", "%s: the agent can make its socket there, and callers can reach it", dir)
	}
}

// rightSocketDir says how a directory comes about in which a socket can be. Where systemd holds the
// sockets it is root's, so that an agent that was taken over cannot exchange them.
func (d *doctor) rightSocketDir() string {
	const units = "With the units of the package, root owns the directory, and systemd the socket: systemd-tmpfiles --create keyagent.conf, then systemctl start keyagent.socket"
	if d.cfg.Activated {
		return units
	}
	return units + ". Only an agent without units, which opens its socket itself, needs a directory of its own user's, with mode 0755"
}

// rootsSocket reports whether there is a socket in a directory of root's, as systemd makes it.
func rootsSocket(dir fs.FileInfo, path string) bool {
	uid, err := owned.Owner(dir)
	if err != nil || uid != 0 {
		return false
	}
	info, err := os.Lstat(path)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}

// missingSocketDir tells whether the agent would make the directory.
func (d *doctor) missingSocketDir(check, dir string) {
	if parent := filepath.Dir(dir); unix.Access(parent, unix.W_OK|unix.X_OK) == nil {
		d.add(check, VerdictOK, "", "%s does not exist; the agent makes it when it starts", dir)
		return
	}
	d.add(check, VerdictWarn, d.rightSocketDir(), "%s does not exist, and this user cannot make it", dir)
}

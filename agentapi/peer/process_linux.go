package peer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	errEnded      = errors.New("the caller's process has ended")
	errNotVisible = errors.New("the caller's process is not visible from the agent's pid namespace")
	errOtherUser  = errors.New("the number of the caller's process is that of another user's now")
)

// process is the process of a caller, held by a pidfd, so that its number cannot become another
// process' unnoticed. It is safe for concurrent use.
type process struct {
	kernel   kernel
	pid      int32
	pidfd    *os.File
	uid      uint32
	uidKnown bool
	cgroup   uint64 // 0: not known
}

// pin holds the process at the other end of a Unix socket. weak says that the kernel could name it
// by its number only.
func pin(k kernel, socket int, pid int32, uid uint32) (held *process, weak bool, err error) {
	fd, err := k.PeerPidfd(socket)
	switch {
	case err == nil:
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENODATA):
		return nil, false, errEnded // as kernels before 6.16 say it
	case errors.Is(err, unix.ENOPROTOOPT):
		weak = true
		if fd, err = k.OpenPidfd(pid); err != nil {
			return nil, true, pinError(err)
		}
	default:
		return nil, false, fmt.Errorf("SO_PEERPIDFD: %w", err)
	}
	held = &process{kernel: k, pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	if err := held.check(weak, uid); err != nil {
		_ = held.close()
		return nil, weak, err
	}
	held.look()
	if !held.running() { // the text may be another process'
		_ = held.close()
		return nil, weak, errEnded
	}
	return held, weak, nil
}

func pinError(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return errEnded
	}
	return fmt.Errorf("pidfd_open: %w", err)
}

// check refuses a process that cannot be the one that connected. Whether it has ended is asked
// last, by the caller of check: only then is what /proc says known to be of this process.
func (p *process) check(weak bool, uid uint32) error {
	if p.pid <= 0 {
		return errNotVisible
	}
	if !weak {
		return nil
	}
	owner, err := p.kernel.ProcessOwner(p.pid)
	switch {
	case err != nil:
		return err
	case owner != uid:
		return errOtherUser
	}
	return nil
}

// look reads the facts about the process. The text of /proc is used only where the kernel does not
// answer the same question for a pidfd.
func (p *process) look() {
	info, err := p.pidfdInfo()
	switch {
	case err == nil:
		p.uid, p.uidKnown = info.uid, info.has(unix.PIDFD_INFO_CREDS)
		if info.has(unix.PIDFD_INFO_CGROUPID) && info.has(unix.PIDFD_INFO_PID) {
			p.cgroup = info.cgroup
		}
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL): // before 6.13
		p.cgroup = cgroupByText(p.kernel, p.pid)
	}
}

func (p *process) pidfdInfo() (info pidfdInfo, err error) {
	err = p.with(func(fd int) error {
		info, err = p.kernel.PidfdInfo(fd)
		return err
	})
	return info, err
}

// running reports whether the process has not ended. On a doubt it has.
func (p *process) running() bool {
	ended := true
	err := p.with(func(fd int) (err error) {
		ended, err = p.kernel.Ended(fd)
		return err
	})
	return err == nil && !ended
}

// with calls f with the pidfd, which nobody closes meanwhile.
func (p *process) with(f func(fd int) error) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

func (p *process) close() error {
	if err := p.pidfd.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// maxCgroupText limits the read of /proc/PID/cgroup: a path of 4096 bytes, and the hierarchies of
// version 1 before it.
const maxCgroupText = 64 << 10

// cgroupByText returns the id of a process' cgroup by its path; 0 if it is not known. It is that of
// the process if the process has not ended afterwards: a cgroup that has a process in it cannot be
// replaced by another one of the same path.
func cgroupByText(k kernel, pid int32) uint64 {
	text, err := k.ProcessCgroup(pid)
	if err != nil {
		return 0
	}
	dir, ok := unifiedPath(text)
	if !ok {
		return 0
	}
	id, err := k.CgroupID(dir)
	if err != nil {
		return 0
	}
	return id
}

// unifiedPath returns the path in the cgroup v2 tree that the text of /proc/PID/cgroup names
// (cgroups(7), "/proc/pid/cgroup"), if it is one below the root that the agent sees.
func unifiedPath(text string) (string, bool) {
	for line := range strings.Lines(text) {
		dir, found := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !found {
			continue
		}
		// In a cgroup namespace, paths outside of it begin with "/..", and are not clean.
		return dir, path.IsAbs(dir) && path.Clean(dir) == dir
	}
	return "", false
}

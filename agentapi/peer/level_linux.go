package peer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Form is how the process behind a Unix socket is known, which its cgroup and executable rest on.
// User and groups are known in the same way with each of them.
type Form string

// The forms, from the strongest to the weakest.
const (
	// FormPidfd: by a pidfd, which says the cgroup itself.
	FormPidfd Form = "pidfd"
	// FormPidfdAndProc: by a pidfd; its cgroup is read in /proc. No weaker, but needs /proc.
	FormPidfdAndProc Form = "pidfd-and-proc"
	// FormNumber: by its number, which another process of the same user may have by now.
	FormNumber Form = "number"
	// FormNone: it is not known.
	FormNone Form = "none"
)

// Level says which facts about callers the kernel of this machine gives. It is found by trying, not
// by the kernel's version, since distributions carry features to older kernels.
type Level struct {
	Process Form
	Why     string // Process is not FormPidfd; "" if it is

	// Units and TCP are why callers are not known in these ways; nil: they are.
	Units error // by their unit, over TCP and over Unix sockets
	TCP   error // over loopback
}

// Weak reports whether the facts about a caller's process may be those of another process.
func (l Level) Weak() bool { return l.Process == FormNumber }

// UnixUnits is why callers on Unix sockets are not known by their unit; nil: they are.
func (l Level) UnixUnits() error {
	if l.Units == nil && l.Process == FormNone {
		return errors.New(l.Why)
	}
	return l.Units
}

// Level tries what the kernel tells of callers. It takes less than a millisecond.
func (h Host) Level() Level { return levelOf(h.probes()) }

// CheckUnits says why callers cannot be known by their unit on this machine, whoever asks.
func (h Host) CheckUnits() error { return h.probes().CgroupsAreUnified() }

// CheckExecutables says why the programs that callers run cannot be seen. It is tried only where a
// rule names some, and never for a caller: each refusal by Landlock is a record in the system's
// audit.
func (h Host) CheckExecutables() error { return executablesOf(h.probes()) }

func (h Host) probes() probes { return hostProbes{hostKernel{h.root()}, h.root()} }

// probes is what [Level] is made from, so that tests can answer as other machines do.
type probes interface {
	kernel
	SocketPair() (fds [2]int, err error)
	CloseFD(fd int)
	ThisProcess() int32
	CgroupsAreUnified() error // and system services have theirs there
	OtherExecutable() error   // why the executable of another user's process cannot be seen
	OwnersOverTCP() error
}

func levelOf(p probes) Level {
	level := Level{Units: p.CgroupsAreUnified(), TCP: p.OwnersOverTCP()}
	level.Process, level.Why = processForm(p)
	return level
}

func executablesOf(p probes) error {
	if form, why := processForm(p); form == FormNone {
		return errors.New(why)
	}
	return p.OtherExecutable()
}

// processForm asks for this process itself, over a pair of sockets.
func processForm(p probes) (Form, string) {
	pair, err := p.SocketPair()
	if err != nil {
		return FormNone, fmt.Sprintf("a pair of Unix sockets: %v", err)
	}
	defer p.CloseFD(pair[0])
	defer p.CloseFD(pair[1])
	fd, err := p.PeerPidfd(pair[0])
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return numberForm(p)
	case err != nil:
		return FormNone, fmt.Sprintf("the kernel gives no pidfd of a socket's other end (SO_PEERPIDFD): %v", err)
	}
	defer p.CloseFD(fd)
	info, err := p.PidfdInfo(fd)
	switch {
	case err == nil && info.has(unix.PIDFD_INFO_CGROUPID):
		return FormPidfd, ""
	case err == nil:
		return FormNone, "the kernel says of a pidfd not which cgroup it is in (PIDFD_GET_INFO)"
	case !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EINVAL):
		return FormNone, fmt.Sprintf("the kernel says nothing of a pidfd (PIDFD_GET_INFO): %v", err)
	}
	if err := othersInProc(p); err != nil {
		return FormNone, fmt.Sprintf("before Linux 6.13, cgroups are read in /proc: %v", err)
	}
	return FormPidfdAndProc, "before Linux 6.13, cgroups are read in /proc, while a pidfd shows that the process has not ended"
}

func numberForm(p probes) (Form, string) {
	fd, err := p.OpenPidfd(p.ThisProcess())
	if err != nil {
		return FormNone, fmt.Sprintf("the kernel has neither SO_PEERPIDFD nor pidfd_open: %v", err)
	}
	p.CloseFD(fd)
	if err := othersInProc(p); err != nil {
		return FormNone, fmt.Sprintf("before Linux 6.5, processes are found by number in /proc: %v", err)
	}
	return FormNumber, "before Linux 6.5, a socket has the number of the process only, which another process of the same user may have by now"
}

// othersInProc says why /proc does not show processes of other users. The first process is one.
func othersInProc(p probes) error {
	const advice = "(in a systemd unit: ProtectProc=default)"
	if _, err := p.ProcessOwner(1); err != nil {
		return fmt.Errorf("it does not show processes of others %s: %w", advice, err)
	}
	if _, err := p.ProcessCgroup(1); err != nil {
		return fmt.Errorf("it does not show the cgroups of others %s: %w", advice, err)
	}
	return nil
}

// hostProbes tries this machine.
type hostProbes struct {
	hostKernel
	root string // of cgroups
}

// SocketPair implements probes.
func (hostProbes) SocketPair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

// CloseFD implements probes.
func (hostProbes) CloseFD(fd int) { _ = unix.Close(fd) }

// ThisProcess implements probes.
func (hostProbes) ThisProcess() int32 { return int32(os.Getpid()) } //nolint:gosec // a pid

// CgroupsAreUnified implements probes. On other hosts systemd has units in a tree of version 1, and
// the id that the kernel tells is that of the root of version 2 for everybody.
func (p hostProbes) CgroupsAreUnified() error {
	var stat unix.Statfs_t
	if err := unix.Statfs(p.root, &stat); err != nil {
		return fmt.Errorf("%s: %w", p.root, err)
	}
	if stat.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s is not a tree of cgroups version 2: units cannot be told apart on a host that has version 1 or both "+
			"(start its kernel with systemd.unified_cgroup_hierarchy=1)", p.root)
	}
	const slice = "system.slice"
	if info, err := os.Stat(filepath.Join(p.root, slice)); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return fmt.Errorf("%s has no %s: systemd does not run here, or the agent is in a cgroup namespace and does not see the units "+
			"(in its unit: ProtectControlGroups=yes, not private)", p.root, slice)
	} else if err != nil {
		return err
	}
	return nil
}

// OtherExecutable implements probes.
func (p hostProbes) OtherExecutable() error {
	if _, err := p.Executable(1); err != nil {
		return fmt.Errorf("the executable of another user's process cannot be seen: it needs CAP_SYS_PTRACE "+
			"(in a systemd unit: AmbientCapabilities=CAP_SYS_PTRACE), and an agent without Landlock: %w", err)
	}
	if has, err := hasCapability(unix.CAP_SYS_PTRACE); err != nil || !has {
		return errors.Join(errors.New("the agent does not have CAP_SYS_PTRACE, without which it does not see the executables of other users "+
			"(in a systemd unit: AmbientCapabilities=CAP_SYS_PTRACE)"), err)
	}
	return nil
}

// OwnersOverTCP implements probes.
func (hostProbes) OwnersOverTCP() error {
	t, err := OpenTCP()
	if err != nil {
		return err
	}
	return t.Close()
}

// hasCapability reports whether a capability is in effect (capget(2)).
func hasCapability(number int) (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("capget: %w", err)
	}
	return data[number/32].Effective&(1<<(number%32)) != 0, nil
}

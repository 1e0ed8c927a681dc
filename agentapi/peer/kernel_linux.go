package peer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// CgroupRoot is where the unified tree of cgroups is on hosts that have no other.
const CgroupRoot = "/sys/fs/cgroup"

// kernel has the questions about processes that the kernel answers, so that tests can answer as
// other kernels do. Errors are those of the system calls.
type kernel interface {
	// PeerPidfd returns a pidfd of the process at the other end of a Unix socket (SO_PEERPIDFD).
	PeerPidfd(socket int) (pidfd int, err error)
	OpenPidfd(pid int32) (pidfd int, err error)
	PidfdInfo(pidfd int) (pidfdInfo, error) // PIDFD_GET_INFO, without PIDFD_INFO_EXIT
	Ended(pidfd int) (bool, error)
	// ProcessOwner returns the uid of a process by the owner of its directory in /proc.
	ProcessOwner(pid int32) (uint32, error)
	ProcessCgroup(pid int32) (text string, err error) // of /proc/PID/cgroup
	CgroupID(path string) (uint64, error)             // by its path below the root of cgroups
	Executable(pid int32) (file, error)               // of /proc/PID/exe
}

// pidfdInfo is what PIDFD_GET_INFO says. A field counts only if its bit is in the mask: those that
// are missing read as 0, which is root's uid.
type pidfdInfo struct {
	mask   uint64
	uid    uint32 // effective
	cgroup uint64
}

func (i pidfdInfo) has(bit uint64) bool { return i.mask&bit != 0 }

// hostKernel is the kernel that the agent runs on.
type hostKernel struct{ cgroups string }

// PeerPidfd implements kernel.
func (hostKernel) PeerPidfd(socket int) (int, error) {
	fd, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		return -1, err
	}
	return fd, nil // the kernel sets FD_CLOEXEC on it
}

// OpenPidfd implements kernel.
func (hostKernel) OpenPidfd(pid int32) (int, error) { return unix.PidfdOpen(int(pid), 0) }

// PidfdInfo implements kernel.
func (hostKernel) PidfdInfo(pidfd int) (pidfdInfo, error) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID | unix.PIDFD_INFO_CREDS | unix.PIDFD_INFO_CGROUPID}
	if err := unix.IoctlPidfdInfo(pidfd, &info); err != nil {
		return pidfdInfo{}, err
	}
	return pidfdInfo{mask: info.Mask, uid: info.Euid, cgroup: info.Cgroupid}, nil
}

// Ended implements kernel.
func (hostKernel) Ended(pidfd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	for {
		_, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return fds[0].Revents != 0, err
	}
}

// ProcessOwner implements kernel.
func (hostKernel) ProcessOwner(pid int32) (uint32, error) {
	info, err := os.Stat(processFile(pid, ""))
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("the owner of process %d is not known", pid)
	}
	return stat.Uid, nil
}

// ProcessCgroup implements kernel.
func (hostKernel) ProcessCgroup(pid int32) (string, error) {
	file, err := os.Open(processFile(pid, "cgroup"))
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxCgroupText))
	return string(text), err
}

// CgroupID implements kernel.
func (k hostKernel) CgroupID(path string) (uint64, error) {
	return cgroupID(filepath.Join(k.cgroups, path))
}

// file is one file of this machine.
type file struct{ device, inode uint64 }

// Executable implements kernel. The file is opened, not read: where its path leads does not matter.
func (hostKernel) Executable(pid int32) (file, error) { return fileID(processFile(pid, "exe")) }

// fileID returns which file a path leads to.
func fileID(path string) (file, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return file{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return file{}, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return file{}, unix.EINVAL
	}
	return file{stat.Dev, stat.Ino}, nil
}

// cgroupID returns the id of the cgroup with this directory: its inode (cgroups(7)).
func cgroupID(dir string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Lstat(dir, &stat); err != nil {
		return 0, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return 0, unix.ENOTDIR
	}
	return stat.Ino, nil
}

func processFile(pid int32, name string) string {
	return filepath.Join("/proc", strconv.Itoa(int(pid)), name)
}

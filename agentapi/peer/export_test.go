package peer

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var (
	CheckIDMap  = checkIDMap
	StartTime   = startTime
	UnifiedPath = unifiedPath

	BootID = bootID
)

// SeesExecutable is nil if this process sees the program that another one runs.
func SeesExecutable(pid int) error {
	_, err := hostKernel{}.Executable(int32(pid))
	return err
}

// DiagSocket is what an answer of the kernel says.
type DiagSocket struct {
	Local, Remote netip.AddrPort
	State         uint8
	UID, Inode    uint32
	Cgroup        uint64
}

func ParseDiag(b []byte, sequence uint32) (DiagSocket, error) {
	found, err := parseDiag(b, sequence)
	return DiagSocket{found.local, found.remote, found.state, found.uid, found.inode, found.cgroup}, err
}

// IsOpenEnd is nil if the socket is the end that was asked for, and a process has it open.
func (d DiagSocket) IsOpenEnd(local, remote netip.AddrPort) error {
	found := diagSocket{endpoints{d.Local, d.Remote}, d.State, d.UID, d.Inode, d.Cgroup}
	return found.isOpenEnd(endpoints{local, remote})
}

func DiagRequest(local, remote netip.AddrPort, sequence, iface uint32) []byte {
	return diagRequest(endpoints{local, remote}, sequence, iface)
}

// Recorded answers as another kernel does. What it does not say is as if nothing was wrong.
type Recorded struct {
	PeerPidfdError, OpenPidfdError, PidfdInfoError error
	Info                                           map[uint64]uint64 // by bit of PIDFD_INFO: pid, euid, cgroup id
	EndsAfter                                      int               // so many times it is asked; 0: it does not end
	Owner                                          uint32            // of /proc/PID
	OwnerError                                     error
	CgroupText                                     string // of /proc/PID/cgroup
	CgroupTextError                                error
	Cgroups                                        map[string]uint64 // by path

	UnitsError, ExecutableError, TCPError error

	asked atomic.Int64
}

func (r *Recorded) Of(conn net.Conn) (Caller, error) { return ofUnix(conn, recorded{r}) }

func (r *Recorded) Level() Level { return levelOf(recorded{r}) }

func (r *Recorded) CheckExecutables() error { return executablesOf(recorded{r}) }

// recorded is the kernel, and the machine, of what was recorded.
type recorded struct{ *Recorded }

// pidfd is any descriptor.
func pidfd(err error) (int, error) {
	if err != nil {
		return -1, err
	}
	return unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

func (r recorded) PeerPidfd(int) (int, error)   { return pidfd(r.PeerPidfdError) }
func (r recorded) OpenPidfd(int32) (int, error) { return pidfd(r.OpenPidfdError) }

func (r recorded) PidfdInfo(int) (pidfdInfo, error) {
	var info pidfdInfo
	for bit := range r.Info {
		info.mask |= bit
	}
	info.uid, info.cgroup = uint32(r.Info[unix.PIDFD_INFO_CREDS]), r.Info[unix.PIDFD_INFO_CGROUPID]
	return info, r.PidfdInfoError
}

func (r recorded) Ended(int) (bool, error) {
	return r.EndsAfter > 0 && r.asked.Add(1) >= int64(r.EndsAfter), nil
}

func (r recorded) ProcessOwner(int32) (uint32, error)  { return r.Owner, r.OwnerError }
func (r recorded) ProcessCgroup(int32) (string, error) { return r.CgroupText, r.CgroupTextError }

func (r recorded) CgroupID(path string) (uint64, error) {
	if id, ok := r.Cgroups[path]; ok {
		return id, nil
	}
	return 0, unix.ENOENT
}

// Executable is that of this process.
func (r recorded) Executable(int32) (file, error) {
	if r.ExecutableError != nil {
		return file{}, r.ExecutableError
	}
	return fileID("/proc/self/exe")
}

func (r recorded) SocketPair() ([2]int, error) {
	a, errA := pidfd(nil)
	b, errB := pidfd(nil)
	return [2]int{a, b}, errors.Join(errA, errB)
}

func (r recorded) CloseFD(fd int)           { _ = unix.Close(fd) }
func (r recorded) ThisProcess() int32       { return int32(os.Getpid()) }
func (r recorded) CgroupsAreUnified() error { return r.UnitsError }
func (r recorded) OtherExecutable() error   { return r.ExecutableError }
func (r recorded) OwnersOverTCP() error     { return r.TCPError }

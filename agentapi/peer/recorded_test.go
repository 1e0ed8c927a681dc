package peer_test

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// What kernels answer about the process behind a Unix socket. Those of 5.10, 6.1, 6.12, 6.16, 6.18
// and 7.3 were seen on such kernels; those of 6.6 and 6.13 are from their source.
const (
	unitPath = "/system.slice/appx.service"
	unitText = "0::" + unitPath + "\n"
	unitID   = 3053
)

var cgroups = map[string]uint64{"/": 1, unitPath: unitID}

// saysAll is an answer of PIDFD_GET_INFO, of a process of root in the unit.
func saysAll(uid uint64) map[uint64]uint64 {
	return map[uint64]uint64{unix.PIDFD_INFO_PID: 1, unix.PIDFD_INFO_CREDS: uid, unix.PIDFD_INFO_CGROUPID: unitID}
}

// connected returns the accepted end of a connection of this process.
func connected(t *testing.T) net.Conn {
	t.Helper()
	ln := listen(t)
	client, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestOtherKernels(t *testing.T) {
	me := uint32(os.Geteuid())
	tests := []struct {
		name   string
		kernel peer.Recorded
		cgroup uint64 // 0: not known
		weak   bool
	}{
		{"5.10 and 6.1: by number", peer.Recorded{
			PeerPidfdError: unix.ENOPROTOOPT, PidfdInfoError: unix.ENOTTY, Owner: me, CgroupText: unitText,
		}, unitID, true},
		{"6.1, the process has ended before the agent asks", peer.Recorded{
			PeerPidfdError: unix.ENOPROTOOPT, OpenPidfdError: unix.ESRCH, Owner: me, CgroupText: unitText,
		}, 0, false},
		{"6.1, another user's process has the number", peer.Recorded{
			PeerPidfdError: unix.ENOPROTOOPT, PidfdInfoError: unix.ENOTTY, Owner: me + 1, CgroupText: unitText,
		}, 0, false},
		{"6.1, /proc does not show the process", peer.Recorded{
			PeerPidfdError: unix.ENOPROTOOPT, PidfdInfoError: unix.ENOTTY, OwnerError: unix.ENOENT, CgroupText: unitText,
		}, 0, false},
		{"6.1, the process ends while it is looked at", peer.Recorded{
			PeerPidfdError: unix.ENOPROTOOPT, PidfdInfoError: unix.ENOTTY, Owner: me, CgroupText: unitText, EndsAfter: 1,
		}, 0, false},
		{"before 5.3, no pidfd at all", peer.Recorded{
			PeerPidfdError: unix.ENOPROTOOPT, OpenPidfdError: unix.ENOSYS, Owner: me, CgroupText: unitText,
		}, 0, false},
		{"6.6: held, cgroup by text", peer.Recorded{PidfdInfoError: unix.ENOTTY, Owner: me + 1, CgroupText: unitText}, unitID, false},
		{"6.12: the same, and another error", peer.Recorded{PidfdInfoError: unix.EINVAL, CgroupText: unitText}, unitID, false},
		{"6.12, gone", peer.Recorded{PeerPidfdError: unix.EINVAL, CgroupText: unitText}, 0, false},
		{"6.12, ends while it is looked at", peer.Recorded{PidfdInfoError: unix.EINVAL, CgroupText: unitText, EndsAfter: 1}, 0, false},
		{"6.12, /proc does not show the process", peer.Recorded{PidfdInfoError: unix.EINVAL, CgroupTextError: unix.ENOENT}, 0, false},
		{"6.12 under Landlock without a rule for /proc", peer.Recorded{PidfdInfoError: unix.EINVAL, CgroupTextError: unix.EACCES}, 0, false},
		{"6.12, a cgroup outside of the agent's cgroup namespace", peer.Recorded{
			PidfdInfoError: unix.EINVAL, CgroupText: "0::/../appx.service\n",
		}, 0, false},
		{"6.12, a cgroup that was removed", peer.Recorded{
			PidfdInfoError: unix.EINVAL, CgroupText: "0::" + unitPath + " (deleted)\n",
		}, 0, false},
		{"6.12, a cgroup of version 1 with the name of the unit", peer.Recorded{
			PidfdInfoError: unix.EINVAL, CgroupText: "1:name=systemd:" + unitPath + "\n0::/other\n",
		}, 0, false},
		{"6.13: the pidfd says the cgroup", peer.Recorded{Info: saysAll(uint64(me)), CgroupText: "0::/other\n"}, unitID, false},
		{"6.13, gone, as before", peer.Recorded{PeerPidfdError: unix.EINVAL, CgroupText: unitText}, 0, false},
		{"6.13, ends before it is asked: no text takes the place", peer.Recorded{
			PidfdInfoError: unix.ESRCH, CgroupText: unitText, EndsAfter: 1,
		}, 0, false},
		{"6.13, a process outside of the agent's pid namespace", peer.Recorded{PidfdInfoError: unix.EREMOTE, CgroupText: unitText}, 0, false},
		{"6.16: gone, and a pidfd all the same", peer.Recorded{Info: saysAll(0), EndsAfter: 1}, 0, false},
		{"7.3, gone and reaped: only the cgroup is said, and the rest reads as 0", peer.Recorded{
			Info: map[uint64]uint64{unix.PIDFD_INFO_CGROUPID: unitID, unix.PIDFD_INFO_EXIT: 0},
		}, 0, false},
		{"a kernel that does not say the cgroup: no text takes the place", peer.Recorded{
			Info: map[uint64]uint64{unix.PIDFD_INFO_PID: 1, unix.PIDFD_INFO_CREDS: 0}, CgroupText: unitText,
		}, 0, false},
		{"too many open files: not taken for an old kernel", peer.Recorded{
			PeerPidfdError: unix.EMFILE, Owner: me, CgroupText: unitText,
		}, 0, false},
		{"a filter of system calls: not taken for an old kernel", peer.Recorded{
			PeerPidfdError: unix.EPERM, Owner: me, CgroupText: unitText,
		}, 0, false},
		{"no peer", peer.Recorded{PeerPidfdError: unix.ENODATA, Owner: me, CgroupText: unitText}, 0, false},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			tt.kernel.Cgroups = cgroups
			got, err := tt.kernel.Of(connected(t))
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			if got.UID != me || int(got.PID) != os.Getpid() {
				t.Errorf("got %+v: the user does not depend on the process", got)
			}
			if got.CgroupID != tt.cgroup || got.Weak != tt.weak {
				t.Errorf("got cgroup %d, weak %v, want %d, %v", got.CgroupID, got.Weak, tt.cgroup, tt.weak)
			}
		})
	}
}

// The uid of a process that has changed its user since it connected is not that of the connection.
func TestProcessUID(t *testing.T) {
	kernel := peer.Recorded{Info: saysAll(4711)}
	caller, err := kernel.Of(connected(t))
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	if uid, known := caller.ProcessUID(); uid != 4711 || !known || int(caller.UID) != os.Geteuid() {
		t.Errorf("process %d, %v, caller %+v", uid, known, caller)
	}
	silent := peer.Recorded{Info: map[uint64]uint64{unix.PIDFD_INFO_PID: 1, unix.PIDFD_INFO_CGROUPID: unitID}}
	caller, err = silent.Of(connected(t))
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	if uid, known := caller.ProcessUID(); known {
		t.Errorf("uid %d is known, and the kernel has not said it", uid)
	}
}

// What /proc says of a number counts only while the process that had it has not ended.
func TestTheExecutableOfANumberThatWasReused(t *testing.T) {
	for name, tt := range map[string]struct {
		kernel *peer.Recorded
		runs   bool
	}{
		"the process runs":     {&peer.Recorded{Info: saysAll(0)}, true},
		"it has ended":         {&peer.Recorded{Info: saysAll(0), EndsAfter: 2}, false},
		"it cannot be seen":    {&peer.Recorded{Info: saysAll(0), ExecutableError: unix.EACCES}, false},
		"a kernel before 6.5":  {&peer.Recorded{PeerPidfdError: unix.ENOPROTOOPT, PidfdInfoError: unix.ENOTTY, Owner: uint32(os.Geteuid())}, true},
		"and it has ended":     {&peer.Recorded{PeerPidfdError: unix.ENOPROTOOPT, PidfdInfoError: unix.ENOTTY, Owner: uint32(os.Geteuid()), EndsAfter: 2}, false},
		"and it was not found": {&peer.Recorded{PeerPidfdError: unix.ENOPROTOOPT, OpenPidfdError: unix.ESRCH}, false},
	} {
		t.Run(name, func(t *testing.T) {
			caller, err := tt.kernel.Of(connected(t))
			if err != nil {
				t.Fatal(err)
			}
			defer caller.Close()
			if (peer.Host{}).Runs(caller, "/proc/self/exe") != tt.runs {
				t.Errorf("runs it: %v", !tt.runs)
			}
		})
	}
}

// The form is found by what the kernel does, not by its version.
func TestLevels(t *testing.T) {
	tests := []struct {
		name    string
		machine peer.Recorded
		form    peer.Form
		why     string
	}{
		{"6.13 and later", peer.Recorded{Info: saysAll(0)}, peer.FormPidfd, ""},
		{"and /proc does not matter", peer.Recorded{Info: saysAll(0), OwnerError: unix.ENOENT, CgroupTextError: unix.EACCES}, peer.FormPidfd, ""},
		{"6.12", peer.Recorded{PidfdInfoError: unix.EINVAL}, peer.FormPidfdAndProc, "read in /proc"},
		{"6.6", peer.Recorded{PidfdInfoError: unix.ENOTTY}, peer.FormPidfdAndProc, "read in /proc"},
		{"6.12 with ProtectProc=invisible", peer.Recorded{PidfdInfoError: unix.EINVAL, OwnerError: unix.ENOENT}, peer.FormNone, "ProtectProc=default"},
		{"6.12 with Landlock", peer.Recorded{PidfdInfoError: unix.EINVAL, CgroupTextError: unix.EACCES}, peer.FormNone, "permission denied"},
		{"5.10 and 6.1", peer.Recorded{PeerPidfdError: unix.ENOPROTOOPT}, peer.FormNumber, "another process of the same user"},
		{"6.1 with ProtectProc=invisible", peer.Recorded{PeerPidfdError: unix.ENOPROTOOPT, OwnerError: unix.ENOENT}, peer.FormNone, "ProtectProc=default"},
		{"before 5.3", peer.Recorded{PeerPidfdError: unix.ENOPROTOOPT, OpenPidfdError: unix.ENOSYS}, peer.FormNone, "pidfd_open"},
		{"a filter of system calls", peer.Recorded{PeerPidfdError: unix.EPERM}, peer.FormNone, "operation not permitted"},
		{"a kernel that hides cgroups", peer.Recorded{Info: map[uint64]uint64{unix.PIDFD_INFO_PID: 1}}, peer.FormNone, "PIDFD_GET_INFO"},
		{"an answer that is neither", peer.Recorded{PidfdInfoError: unix.EREMOTE}, peer.FormNone, "PIDFD_GET_INFO"},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			level := tt.machine.Level()
			if level.Process != tt.form || !strings.Contains(level.Why, tt.why) || (level.Why == "") != (tt.why == "") {
				t.Errorf("got %s: %s, want %s: …%s…", level.Process, level.Why, tt.form, tt.why)
			}
			if level.Weak() != (tt.form == peer.FormNumber) {
				t.Errorf("weak: %v", level.Weak())
			}
			if err := tt.machine.CheckExecutables(); (err == nil) != (tt.form != peer.FormNone) {
				t.Errorf("executables: %v", err)
			}
		})
	}
	t.Run("what is missing is said", func(t *testing.T) {
		units, tcp, exe := errors.New("cgroups of version 1"), errors.New("no netlink"), errors.New("no CAP_SYS_PTRACE")
		machine := peer.Recorded{Info: saysAll(0), UnitsError: units, TCPError: tcp, ExecutableError: exe}
		level := machine.Level()
		if !errors.Is(level.Units, units) || !errors.Is(level.TCP, tcp) || !errors.Is(machine.CheckExecutables(), exe) {
			t.Errorf("got %+v, %v", level, machine.CheckExecutables())
		}
	})
}

// What kernels from 5.10 to 7.3 say of the other end of a connection, by what has become of it.
func TestOwnersOnOtherKernels(t *testing.T) {
	const (
		estab, synSent, finWait1, finWait2, timeWait, closed, closeWait, lastAck, listening, closing, newSynRecv = 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12
	)
	tests := []struct {
		name       string
		state      uint8
		uid, inode uint32
		counts     bool
	}{
		{"established", estab, victim, 99, true},
		{"established, of root", estab, 0, 99, true},
		{"connecting from the same port", synSent, victim, 99, false},
		{"being connected", 3, 0, 0, false},
		{"a request for a connection", newSynRecv, 0, 0, false},
		{"half closed, data on its way", finWait1, victim, 99, false},
		{"the same, and nobody has it, 5.10 to 6.12", finWait1, 0, 0, false},
		{"the same, 6.16 to 7.3", finWait1, victim, 0, false},
		{"half closed", finWait2, victim, 99, false},
		{"closed, and nobody has it", finWait2, 0, 0, false},
		{"gone for a while", timeWait, 0, 0, false},
		{"reset, and bound still", closed, victim, 99, false},
		{"closed by the agent", closeWait, victim, 99, false},
		{"closed by both, the last data on its way", lastAck, victim, 99, false},
		{"the same, and nobody has it, 6.12", lastAck, 0, 0, false},
		{"closed by both at once", closing, 0, 0, false},
		{"a listener in its place", listening, 0, 99, false},
		{"an end of MPTCP after its client has closed, 6.1", estab, 0, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found := peer.DiagSocket{Local: diagClient, Remote: diagAgent, State: tt.state, UID: tt.uid, Inode: tt.inode}
			if err := found.IsOpenEnd(diagClient, diagAgent); (err == nil) != tt.counts {
				t.Errorf("got %v, counts: %v", err, tt.counts)
			}
			for name, asked := range map[string][2]string{
				"another port": {"127.0.0.1:40001", "127.0.0.1:840"}, "another address": {"127.0.0.2:40000", "127.0.0.1:840"},
				"another of the agent's ports": {"127.0.0.1:40000", "127.0.0.1:841"}, "another of its addresses": {"127.0.0.1:40000", "127.0.0.2:840"},
				"the agent's own end": {"127.0.0.1:840", "127.0.0.1:40000"},
			} {
				if err := found.IsOpenEnd(addrPort(asked[0]), addrPort(asked[1])); err == nil {
					t.Errorf("it counts for %s", name)
				}
			}
		})
	}
}

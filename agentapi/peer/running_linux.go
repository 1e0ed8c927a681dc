package peer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ProcessID returns a text that names the caller's process and no other one in this boot of the
// machine; false if the process is not known or has ended. The text is the same after a restart of
// the agent, and [Running] takes it.
func (c Caller) ProcessID() (string, bool) {
	if c.process == nil {
		return "", false
	}
	boot, err := bootID()
	if err != nil {
		return "", false
	}
	var mark string
	err = c.process.with(func(fd int) (err error) {
		mark, err = markOf(fd, c.process.pid)
		return err
	})
	if err != nil || !c.process.running() { // what was read may be another process'
		return "", false
	}
	return fmt.Sprintf("%s/%d/%s", boot, c.process.pid, mark), true
}

// maxProcessID limits the text that [Running] looks at.
const maxProcessID = 128

// Boot is the present boot of the machine, in which processes can be found by their names. It is a
// value, safe for concurrent use.
type Boot struct{ id string }

// ThisBoot finds out which boot this is.
func ThisBoot() (Boot, error) {
	id, err := bootID()
	return Boot{id}, err
}

// Watched is a process that has been found by its name, held so that its number cannot become
// another process' unnoticed. It is safe for concurrent use.
type Watched struct{ process *process }

// Watch finds a process that [Caller.ProcessID] has named. It does not if the process has ended,
// for a text of another boot, and whenever that cannot be told. Call [Watched.Close] at the end.
func (b Boot) Watch(processID string) (watched *Watched, found bool) {
	parts := strings.Split(processID, "/")
	if len(processID) > maxProcessID || len(parts) != 3 {
		return nil, false
	}
	pid, err := strconv.ParseInt(parts[1], 10, 32)
	if err != nil || pid <= 0 {
		return nil, false
	}
	if b.id == "" || parts[0] != b.id {
		return nil, false
	}
	k := hostKernel{}
	fd, err := k.OpenPidfd(int32(pid))
	if err != nil {
		return nil, false
	}
	w := &Watched{&process{kernel: k, pid: int32(pid), pidfd: os.NewFile(uintptr(fd), "pidfd")}}
	mark, err := markOf(fd, int32(pid))
	if err != nil || mark != parts[2] || !w.Running() { // what was read may be another process'
		_ = w.Close()
		return nil, false
	}
	return w, true
}

// Running reports whether the process has not ended. It takes about a microsecond. After
// [Watched.Close], or on a doubt, it has.
func (w *Watched) Running() bool { return w.process.running() }

// Close lets go of the process. It may be called again.
func (w *Watched) Close() error { return w.process.close() }

// Running reports whether a process that [Caller.ProcessID] has named still runs, as [Boot.Watch]
// finds it.
func Running(processID string) bool {
	boot, err := ThisBoot()
	if err != nil {
		return false
	}
	w, found := boot.Watch(processID)
	return found && w.Close() == nil
}

// markOf returns what tells a process from others that have had its number: the inode of its pidfd,
// where each process has one of its own (6.9 and later), else when it started. The latter is the
// process' own only if it has not ended afterwards.
func markOf(pidfd int, pid int32) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(pidfd, &fs); err != nil {
		return "", err
	}
	if fs.Type == unix.PID_FS_MAGIC {
		var stat unix.Stat_t
		if err := unix.Fstat(pidfd, &stat); err != nil {
			return "", err
		}
		return fmt.Sprintf("i%d", stat.Ino), nil
	}
	text, err := os.ReadFile(processFile(pid, "stat"))
	if err != nil {
		return "", err
	}
	start, err := startTime(text)
	return "s" + start, err
}

// startTime returns field 22 of /proc/PID/stat (proc_pid_stat(5)): when the process started, in
// ticks since the boot. The program's name before it may contain anything.
func startTime(stat []byte) (string, error) {
	const fieldsAfterName = 20 // field 3 is the first of them
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < fieldsAfterName {
		return "", errors.New("the start of the process is not known")
	}
	start := string(fields[fieldsAfterName-1])
	if _, err := strconv.ParseUint(start, 10, 64); err != nil {
		return "", errors.New("the start of the process is not known")
	}
	return start, nil
}

// bootID names this boot of the machine (random(4)).
func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
}

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

// Running reports whether a process that [Caller.ProcessID] has named still runs. It is false for a
// text of another boot, and whenever that cannot be told.
func Running(processID string) bool {
	parts := strings.Split(processID, "/")
	if len(processID) > maxProcessID || len(parts) != 3 {
		return false
	}
	pid, err := strconv.ParseInt(parts[1], 10, 32)
	if err != nil || pid <= 0 {
		return false
	}
	if boot, err := bootID(); err != nil || boot != parts[0] {
		return false
	}
	k := hostKernel{}
	fd, err := k.OpenPidfd(int32(pid))
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	mark, err := markOf(fd, int32(pid))
	if err != nil || mark != parts[2] {
		return false
	}
	ended, err := k.Ended(fd)
	return err == nil && !ended
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

package confine

import (
	"errors"
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Why a process is not confined.
var (
	ErrNoLandlock = errors.New("the kernel has no Landlock, or has it turned off")
	ErrTooOld     = errors.New("the kernel's Landlock would not let files be renamed from one directory into another (before Linux 5.19)")
	ErrMaySee     = errors.New("the process has CAP_SYS_PTRACE, to see which programs others run, and could not under Landlock")
)

const (
	changeFiles = ll.AccessFSWriteFile | ll.AccessFSTruncate
	changeDirs  = changeFiles | ll.AccessFSRemoveDir | ll.AccessFSRemoveFile | ll.AccessFSMakeChar | ll.AccessFSMakeDir | ll.AccessFSMakeReg |
		ll.AccessFSMakeSock | ll.AccessFSMakeFifo | ll.AccessFSMakeBlock | ll.AccessFSMakeSym | ll.AccessFSRefer
)

// Versions of Landlock's interface.
const (
	abiRefer    = 2
	abiTruncate = 3
)

// Writing has this process, and all that it starts from now on, write below the directories only,
// and to files that exist below those in open. It cannot be taken back. All of them must exist. One
// of the errors above says that nothing was restricted, and that this is no fault.
func Writing(below, open []string) error {
	if seesPrograms() {
		return ErrMaySee
	}
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case errno != 0:
		return fmt.Errorf("%w: %w", ErrNoLandlock, errno)
	case abi < abiRefer:
		return ErrTooOld
	}
	var handled landlock.AccessFSSet = changeDirs
	if abi < abiTruncate {
		handled &^= ll.AccessFSTruncate
	}
	cfg, err := landlock.NewConfig(handled)
	if err != nil {
		return err
	}
	err = cfg.RestrictPaths(landlock.PathAccess(handled, below...), landlock.PathAccess(handled&changeFiles, open...))
	if err != nil {
		return fmt.Errorf("confining the process by Landlock: %w", err)
	}
	return nil
}

// seesPrograms reports whether the process has CAP_SYS_PTRACE. If that cannot be found out, it has.
func seesPrograms() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return true
	}
	return sets[0].Effective&(1<<unix.CAP_SYS_PTRACE) != 0
}

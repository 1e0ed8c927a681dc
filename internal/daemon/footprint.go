package daemon

import (
	"bufio"
	"errors"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shrink gives back what only the start has needed: a third of the heap, and most of the program's
// own pages, which come back from its file's page cache when they are used again. An idle agent has
// a third less resident then, and the kernel can use for others what is not mapped. If it cannot be
// done, the agent is larger and works as well.
func shrink() {
	debug.FreeOSMemory()
	_ = dropProgramPages()
}

// dropProgramPages unmaps the pages of the program's file that cannot be written: code and
// constants. A page that is used afterwards is mapped again, from memory as a rule (MADV_DONTNEED
// in madvise(2)); a private mapping that nobody has written to loses nothing.
func dropProgramPages() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	var problems []error
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if from, size, ok := programPages(lines.Text(), program); ok {
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, size, unix.MADV_DONTNEED); errno != 0 {
				problems = append(problems, errno)
			}
		}
	}
	return errors.Join(problems...)
}

// programPages reads a line of proc_pid_maps(5): address and size of a mapping of the program's
// file that is private and cannot be written; ok is false for others.
func programPages(line, program string) (from, size uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[5] != program || (fields[1] != "r-xp" && fields[1] != "r--p") {
		return 0, 0, false
	}
	begin, end, _ := strings.Cut(fields[0], "-")
	first, err := strconv.ParseUint(begin, 16, 64)
	last, err2 := strconv.ParseUint(end, 16, 64)
	if err != nil || err2 != nil || last <= first {
		return 0, 0, false
	}
	return uintptr(first), uintptr(last - first), true
}

package daemon

import (
	"context"
	"errors"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// heapGrowth is by how much the heap may grow between two collections once the agent is ready, in
// percent (GOGC). Go's own 100 is for programs that are the main work of a machine. The agent is on
// the machine of the applications that it serves, and makes little garbage unless many of them ask
// at once.
const heapGrowth = 50

// quietTime is how long nothing must have happened before memory is given back.
const quietTime = time.Minute

// giveMemoryBack shrinks the process after its start, and whenever it has become quiet after some
// activity, until ctx ends. Activity counts all that happens; sleep is [waiting.Sleep].
func giveMemoryBack(ctx context.Context, activity func() uint64, sleep func(context.Context, time.Duration) error, shrink func()) {
	shrink()
	shrunkAt, before := activity(), activity()
	for sleep(ctx, quietTime) == nil {
		now := activity()
		if now == before && now != shrunkAt {
			shrink()
			shrunkAt = now
		}
		before = now
	}
}

// shrink gives back what only the start, or work that is over, has needed: a third of the heap, and
// most of the program's own pages, which come back from its file's page cache when they are used
// again. An idle agent has a third less resident then, and the kernel can use for others what is
// not mapped. If it cannot be done, the agent is larger and works as well. From the first time on
// the heap is kept small, unless the environment says otherwise: the start would be a third longer.
func shrink() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
	debug.FreeOSMemory()
	_ = dropProgramPages()
}

// dropProgramPages unmaps the pages of the program's file that cannot be written: code and
// constants. A page that is used afterwards is mapped again, from memory as a rule (MADV_DONTNEED
// in madvise(2)). What differs from the file would be lost, such as what a dynamic linker has
// filled in: a mapping with a page of its own stays.
func dropProgramPages() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	var problems []error
	for _, m := range programMaps(string(maps), program) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.size, unix.MADV_DONTNEED); errno != 0 {
			problems = append(problems, errno)
		}
	}
	return errors.Join(problems...)
}

// mapping is a part of the address space.
type mapping struct{ from, size uintptr }

// programMaps finds in the text of /proc/PID/smaps (proc_pid_smaps(5)) the mappings of the
// program's file that are private, cannot be written, and say that all of their pages are the
// file's.
func programMaps(smaps, program string) []mapping {
	var found []mapping
	var current mapping
	asInFile := map[string]bool{}
	end := func() {
		if current.size > 0 && asInFile["Anonymous:"] && asInFile["Swap:"] {
			found = append(found, current)
		}
		current = mapping{}
		clear(asInFile)
	}
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		if len(fields) > 0 && !strings.HasSuffix(fields[0], ":") {
			end()
			current = programPages(fields, program)
		} else if len(fields) == 3 && fields[1] == "0" {
			asInFile[fields[0]] = true
		}
	}
	end()
	return found
}

// programPages reads the first line of a mapping, as in proc_pid_maps(5). It is empty for one that
// is not of the program's file, not private, or can be written.
func programPages(fields []string, program string) mapping {
	if len(fields) < 6 || fields[5] != program || (fields[1] != "r-xp" && fields[1] != "r--p") {
		return mapping{}
	}
	begin, end, _ := strings.Cut(fields[0], "-")
	first, err := strconv.ParseUint(begin, 16, 64)
	last, err2 := strconv.ParseUint(end, 16, 64)
	if err != nil || err2 != nil || last <= first {
		return mapping{}
	}
	return mapping{uintptr(first), uintptr(last - first)}
}

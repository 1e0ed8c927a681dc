package metrics

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// one is a reading of a single number.
func one(kind kind, name, help string, value float64, labels ...label) *reading {
	return &reading{description{name: name, help: help, kind: kind}, []sample{{labels: labels, value: value}}}
}

// runtimeReadings are the numbers of a Go program that dashboards for Go programs show, under the
// names that Prometheus' own library has for them. They are read without stopping the program.
func runtimeReadings() []*reading {
	read := runtimeNumbers("/sched/goroutines:goroutines", "/sched/threads/total:threads", "/sched/gomaxprocs:threads",
		"/gc/gogc:percent", "/gc/gomemlimit:bytes", "/gc/heap/goal:bytes", "/gc/heap/objects:objects", "/gc/cycles/total:gc-cycles",
		"/gc/heap/allocs:bytes", "/gc/heap/allocs:objects", "/gc/heap/tiny/allocs:objects", "/gc/heap/frees:objects",
		"/memory/classes/total:bytes", "/memory/classes/heap/objects:bytes", "/memory/classes/heap/unused:bytes",
		"/memory/classes/heap/free:bytes", "/memory/classes/heap/released:bytes",
		"/memory/classes/heap/stacks:bytes", "/memory/classes/os-stacks:bytes")
	tiny := read["/gc/heap/tiny/allocs:objects"]
	used, unused := read["/memory/classes/heap/objects:bytes"], read["/memory/classes/heap/unused:bytes"]
	free, released := read["/memory/classes/heap/free:bytes"], read["/memory/classes/heap/released:bytes"]
	return []*reading{
		one(gauge, "go_info", "Always 1; the label says which Go the program was built with.", 1, label{"version", runtime.Version()}),
		one(gauge, "go_goroutines", "Goroutines that there are.", read["/sched/goroutines:goroutines"]),
		one(gauge, "go_threads", "Threads of the operating system.", read["/sched/threads/total:threads"]),
		one(gauge, "go_sched_gomaxprocs_threads", "Threads that may run Go code at once.", read["/sched/gomaxprocs:threads"]),
		one(gauge, "go_gc_gogc_percent", "GOGC, by which the heap may grow between two collections.", read["/gc/gogc:percent"]),
		one(gauge, "go_gc_gomemlimit_bytes", "GOMEMLIMIT, the memory that the program tries not to exceed.", read["/gc/gomemlimit:bytes"]),
		one(counter, "go_gc_cycles_total", "Collections since the start.", read["/gc/cycles/total:gc-cycles"]),
		one(gauge, "go_memstats_next_gc_bytes", "Size of the heap at which the next collection ends.", read["/gc/heap/goal:bytes"]),
		one(gauge, "go_memstats_sys_bytes", "Memory from the operating system.", read["/memory/classes/total:bytes"]),
		one(gauge, "go_memstats_alloc_bytes", "Memory of objects on the heap.", used),
		one(counter, "go_memstats_alloc_bytes_total", "Memory of all objects since the start.", read["/gc/heap/allocs:bytes"]),
		one(counter, "go_memstats_mallocs_total", "Objects that were made since the start.", read["/gc/heap/allocs:objects"]+tiny),
		one(counter, "go_memstats_frees_total", "Objects that were given up since the start.", read["/gc/heap/frees:objects"]+tiny),
		one(gauge, "go_memstats_heap_objects", "Objects on the heap.", read["/gc/heap/objects:objects"]),
		one(gauge, "go_memstats_heap_alloc_bytes", "Memory of objects on the heap.", used),
		one(gauge, "go_memstats_heap_inuse_bytes", "Memory of spans in use.", used+unused),
		one(gauge, "go_memstats_heap_idle_bytes", "Memory of the heap that is not in use.", free+released),
		one(gauge, "go_memstats_heap_released_bytes", "Memory that was given back to the operating system.", released),
		one(gauge, "go_memstats_heap_sys_bytes", "Memory that the heap has reserved.", used+unused+free+released),
		one(gauge, "go_memstats_stack_inuse_bytes", "Memory of stacks.", read["/memory/classes/heap/stacks:bytes"]),
		one(gauge, "go_memstats_stack_sys_bytes", "Memory of stacks, those of threads too.", read["/memory/classes/heap/stacks:bytes"]+read["/memory/classes/os-stacks:bytes"]),
	}
}

// runtimeNumbers reads numbers of package runtime/metrics.
func runtimeNumbers(names ...string) map[string]float64 {
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	metrics.Read(samples)
	read := make(map[string]float64, len(names))
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			read[s.Name] = float64(s.Value.Uint64())
		}
	}
	return read
}

// processReadings are the numbers of a process that Prometheus' documentation asks every program
// for ("Writing client libraries", "Process metrics"). One that cannot be read is left out.
func processReadings() []*reading {
	var all []*reading
	add := func(kind kind, name, help string, value float64, known bool) {
		if known {
			all = append(all, one(kind, name, help, value))
		}
	}
	var usage unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &usage)
	add(counter, "process_cpu_seconds_total", "Processor time, of the program and of the kernel for it.",
		float64(syscall.TimevalToNsec(syscall.Timeval(usage.Utime))+syscall.TimevalToNsec(syscall.Timeval(usage.Stime)))/1e9, err == nil)
	pages := fieldsOf("/proc/self/statm")
	add(gauge, "process_virtual_memory_bytes", "Virtual memory.", pages(0)*float64(os.Getpagesize()), pages(0) > 0)
	add(gauge, "process_resident_memory_bytes", "Resident memory.", pages(1)*float64(os.Getpagesize()), pages(1) > 0)
	open, err := os.ReadDir("/proc/self/fd")
	add(gauge, "process_open_fds", "Open file descriptors.", float64(len(open)-1), err == nil) // one is the directory's
	var limit unix.Rlimit
	err = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	add(gauge, "process_max_fds", "File descriptors that may be open.", float64(limit.Cur), err == nil)
	started, known := startTime()
	add(gauge, "process_start_time_seconds", "When the process was started, in seconds since 1970.", started, known)
	return all
}

// fieldsOf reads a file of numbers; one that is not there is 0. What is before the last ")" is the
// name of a program, which may have spaces.
func fieldsOf(path string) func(int) float64 {
	text, _ := os.ReadFile(path) // without it there is no number
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	return func(i int) float64 {
		if i >= len(fields) {
			return 0
		}
		value, _ := strconv.ParseFloat(string(fields[i]), 64)
		return value
	}
}

// startTime returns when the process was started. /proc has it in hundredths of a second since the
// boot (proc_pid_stat(5), field 22); the boot's own time may be hidden from a service.
func startTime() (float64, bool) {
	const afterName, ticks = 22 - 3, 100
	since := fieldsOf("/proc/self/stat")(afterName) / ticks
	var now, up unix.Timespec
	if since == 0 || unix.ClockGettime(unix.CLOCK_REALTIME, &now) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return 0, false
	}
	return float64(now.Nano()-up.Nano())/1e9 + since, true
}

package peer

import (
	"path/filepath"
)

// Host compares callers with the units and files of this machine. Each answer is of the moment of
// the question: a unit that is started again has another cgroup id, and a program that is installed
// anew is another file. It keeps nothing, and is safe for concurrent use.
type Host struct {
	// Cgroups is the directory of the tree of cgroups, version 2; "": [CgroupRoot].
	Cgroups string
}

// UnitID returns the id of the cgroup of a service, in a form that [UnitPath] takes. It is false
// while the service does not run. It takes one stat, about three microseconds.
func (h Host) UnitID(unit string) (cgroup uint64, running bool) {
	dir, err := UnitPath(unit)
	if err != nil {
		return 0, false
	}
	id, err := cgroupID(filepath.Join(h.root(), dir))
	return id, err == nil && id != 0
}

func (h Host) root() string {
	if h.Cgroups == "" {
		return CgroupRoot
	}
	return h.Cgroups
}

// Runs reports whether the caller's process executes a file now. Device and inode are compared: the
// path that the kernel shows for a process can be made to say anything by the process' user.
func (h Host) Runs(c Caller, path string) bool {
	if c.process == nil {
		return false
	}
	want, err := fileID(path)
	if err != nil {
		return false
	}
	got, err := c.process.kernel.Executable(c.process.pid)
	return err == nil && got == want && c.process.running() // else it may be another process'
}

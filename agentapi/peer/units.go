package peer

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// maxUnitName is systemd's limit on the name of a unit.
const maxUnitName = 255

// sliceName is the name of a slice (systemd.slice(5)).
var sliceName = regexp.MustCompile(`^(?:-|[A-Za-z0-9:_.\\]+(?:-[A-Za-z0-9:_.\\]+)*)\.slice$`)

// UnitPath returns where the cgroup of a system service is, below the root of cgroups. The service
// is named as systemctl does, as in "web.service" or "worker@1.service"; one whose unit has Slice=
// is named with it, as in "apps.slice/web.service". There is no other form, so that all directories
// on the way are slices, which only root's service manager makes: nobody can make a directory with
// such a path in a part of the tree that is delegated to them.
func UnitPath(unit string) (string, error) {
	if len(unit) > maxUnitName {
		return "", fmt.Errorf("unit %.20q… is longer than %d bytes", unit, maxUnitName)
	}
	slice, name, within := strings.Cut(unit, "/")
	if !within {
		name = unit
	}
	prefix, template, ok := serviceName(name)
	if !ok {
		return "", fmt.Errorf("unit %q is not the name of a service, as in web.service, worker@1.service or apps.slice/web.service", unit)
	}
	dir, err := "/system.slice", error(nil)
	switch {
	case within:
		dir, err = slicePath(slice)
	case template:
		dir += "/system-" + escaped(prefix) + ".slice"
	}
	if err != nil {
		return "", fmt.Errorf("unit %q: %w", unit, err)
	}
	return path.Join(dir, cgroupName(name)), nil
}

// serviceName takes the name of a service apart (systemd.unit(5)): that of a template, of which
// nothing runs, is none.
func serviceName(name string) (prefix string, template, ok bool) {
	base, ok := strings.CutSuffix(name, ".service")
	prefix, instance, template := strings.Cut(base, "@")
	return prefix, template, ok && inUnitName(prefix) && (!template || inUnitName(instance))
}

// inUnitName reports whether a text can stand in the name of a unit.
func inUnitName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && !strings.ContainsRune(`:_.\-`, rune(c)) {
			return false
		}
	}
	return s != ""
}

// slicePath returns where the cgroup of a slice is: "a-b.slice" is in "a.slice" (systemd.slice(5)).
func slicePath(slice string) (string, error) {
	if !sliceName.MatchString(slice) {
		return "", fmt.Errorf("%q is not the name of a slice", slice)
	}
	if slice == "-.slice" {
		return "/", nil
	}
	dir, name := "/", ""
	for i, part := range strings.Split(strings.TrimSuffix(slice, ".slice"), "-") {
		if name += part; i == 0 && name == "user" {
			return "", errors.New("units in user.slice belong to users, and users can give them any name: only services of the system can be in a rule")
		}
		dir = path.Join(dir, cgroupName(name+".slice"))
		name += "-"
	}
	return dir, nil
}

// escaped is systemd-escape(1) of the name of a template, as it stands in that of its slice.
func escaped(prefix string) string {
	var b strings.Builder
	for i, c := range []byte(prefix) {
		if c == '-' || c == '\\' || c == '.' && i == 0 {
			fmt.Fprintf(&b, `\x%02x`, c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// controllers begin the names of the kernel's own files in a cgroup.
var controllers = []string{
	"cgroup", "cpu", "cpuacct", "cpuset", "io", "blkio", "memory", "devices", "pids",
	"bpf-firewall", "bpf-devices", "bpf-foreign", "bpf-socket-bind", "bpf-restrict-network-interfaces",
}

// cgroupName is the name of a unit's directory: systemd puts "_" before one that could be taken for
// a file of the kernel.
func cgroupName(unit string) string {
	first, _, _ := strings.Cut(unit, ".")
	if unit[0] == '_' || unit[0] == '.' || slices.Contains(controllers, first) {
		return "_" + unit
	}
	return unit
}

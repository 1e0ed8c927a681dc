package peer_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// Where systemd 252 and 257 put the cgroups of services.
func TestUnitPath(t *testing.T) {
	for unit, want := range map[string]string{
		"web.service":                         "/system.slice/web.service",
		"my-web_2.0.service":                  "/system.slice/my-web_2.0.service",
		`a\x2db.service`:                      `/system.slice/a\x2db.service`,
		"worker@1.service":                    "/system.slice/system-worker.slice/worker@1.service",
		"dc-tmpl@one.service":                 `/system.slice/system-dc\x2dtmpl.slice/dc-tmpl@one.service`,
		"getty@tty1.service":                  "/system.slice/system-getty.slice/getty@tty1.service",
		"dca-apps.slice/inslice.service":      "/dca.slice/dca-apps.slice/inslice.service",
		"a-b-c.slice/worker@1.service":        "/a.slice/a-b.slice/a-b-c.slice/worker@1.service",
		"-.slice/web.service":                 "/web.service",
		"machine.slice/web.service":           "/machine.slice/web.service",
		"users.slice/web.service":             "/users.slice/web.service",
		"memory.service":                      "/system.slice/_memory.service",
		"io.slice/cpu.service":                "/_io.slice/_cpu.service",
		"_web.service":                        "/system.slice/__web.service",
		"cgroup.procs.service":                "/system.slice/_cgroup.procs.service",
		"memoryd.service":                     "/system.slice/memoryd.service",
		`system-dc\x2dtmpl.slice/web.service`: `/system.slice/system-dc\x2dtmpl.slice/web.service`,
	} {
		if got, err := peer.UnitPath(unit); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", unit, got, err, want)
		}
	}
}

func TestUnitPathRefuses(t *testing.T) {
	for unit, want := range map[string]string{
		"":                                    "not the name of a service",
		"web":                                 "not the name of a service",
		"web.socket":                          "not the name of a service",
		"apps.slice":                          "not the name of a service",
		"session-1.scope":                     "not the name of a service",
		".service":                            "not the name of a service",
		"worker@.service":                     "not the name of a service", // a template, of which nothing runs
		"@1.service":                          "not the name of a service",
		"a@b@c.service":                       "not the name of a service",
		"we b.service":                        "not the name of a service",
		"*.service":                           "not the name of a service",
		"web.service\n":                       "not the name of a service",
		"/system.slice/web.service":           "not the name of a service",
		"system.slice/a/b.service":            "not the name of a service",
		"system.slice/../b.service":           "not the name of a service",
		"../web.service":                      "not the name of a slice",
		"a--b.slice/web.service":              "not the name of a slice",
		"-a.slice/web.service":                "not the name of a slice",
		"a-.slice/web.service":                "not the name of a slice",
		"web.service/web.service":             "not the name of a slice",
		"user.slice/web.service":              "belong to users",
		"user-1000.slice/a.service":           "belong to users",
		strings.Repeat("a", 260) + ".service": "longer than",
	} {
		if got, err := peer.UnitPath(unit); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v, want an error with %q", unit, got, err, want)
		}
	}
}

func FuzzUnitPath(f *testing.F) {
	for _, unit := range []string{"web.service", "dc-tmpl@one.service", "a-b.slice/c.service", "../x.service", "-.slice/x.service"} {
		f.Add(unit)
	}
	f.Fuzz(func(t *testing.T, unit string) {
		path, err := peer.UnitPath(unit)
		if err != nil {
			return
		}
		parts := strings.Split(path, "/")
		last := len(parts) - 1
		if parts[0] != "" || filepath.Clean(path) != path || !strings.HasSuffix(parts[last], ".service") || parts[1] == "user.slice" {
			t.Errorf("%q: %q", unit, path)
		}
		for _, dir := range parts[1:last] {
			if !strings.HasSuffix(dir, ".slice") {
				t.Errorf("%q: %q leads through %q", unit, path, dir)
			}
		}
	})
}

// tree is a tree of cgroups in which a test starts and stops units.
type tree struct {
	*testing.T
	root string
	peer.Host
}

func newTree(t *testing.T) *tree {
	t.Helper()
	_, root, _ := newCgroup(t, testCgroup(t))
	return &tree{t, root, peer.Host{Cgroups: root}}
}

// start makes the cgroup of a unit and returns its directory. It stops at the end of the test.
func (tr *tree) start(path string) string {
	tr.Helper()
	dir := tr.root
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err == nil {
			made := dir
			tr.Cleanup(func() { _ = os.Remove(made) })
		} else if !os.IsExist(err) {
			tr.Fatal(err)
		}
	}
	return dir
}

func TestUnitID(t *testing.T) {
	tr := newTree(t)
	if id, running := tr.UnitID("web.service"); running {
		t.Errorf("before it starts, it has id %d", id)
	}
	dir := tr.start("/system.slice/web.service")
	first, running := tr.UnitID("web.service")
	if !running || first == 0 {
		t.Fatalf("got %d, %v", first, running)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if id, running := tr.UnitID("web.service"); running {
		t.Errorf("after it has stopped, it has id %d", id)
	}
	tr.start("/system.slice/web.service")
	if second, running := tr.UnitID("web.service"); !running || second == first {
		t.Errorf("started again, it has id %d, %v, as before", second, running)
	}
	for _, unit := range []string{"other.service", "../web.service", "user.slice/web.service"} {
		if id, running := tr.UnitID(unit); running {
			t.Errorf("%s has id %d", unit, id)
		}
	}
}

// A name proves nothing: a user with a part of the tree of their own can give a cgroup any name.
func TestForgedUnits(t *testing.T) {
	tr := newTree(t)
	want := tr.start("/system.slice/appx.service")
	unit, _ := tr.UnitID("appx.service")
	ln := listen(t)
	for _, tt := range []struct {
		path   string
		inUnit bool
	}{
		{"/system.slice/appx.service", true},
		{"/system.slice/appx.service/deeper", false}, // a cgroup that the service has made
		{"/user.slice/user-4101.slice/user@4101.service/app.slice/appx.service", false},
		{"/user.slice/user-4101.slice/user@4101.service/system.slice/appx.service", false},
		{"/system.slice/lookalike.service/system.slice/appx.service", false},
		{"/system.slice/docker-1.scope/system.slice/appx.service", false},
		{"/appx.service", false},
	} {
		c := startIn(t, tr.start(tt.path), ln, &syscall.Credential{Uid: other, Gid: other})
		if (c.CgroupID == unit) != tt.inUnit || c.CgroupID == 0 {
			t.Errorf("%s: cgroup %d, and the unit has %d", tt.path, c.CgroupID, unit)
		}
		c.end()
	}
	if info, err := os.Stat(want); err != nil || info.Sys().(*syscall.Stat_t).Ino != unit {
		t.Errorf("the unit has another id by now: %v, %v", info, err)
	}
}

// A process of a unit that has ended is in no unit, also where the unit was started again.
func TestUnitThatStartsAgain(t *testing.T) {
	tr := newTree(t)
	dir := tr.start("/system.slice/appx.service")
	c := startIn(t, dir, listen(t), nil)
	if unit, _ := tr.UnitID("appx.service"); c.CgroupID != unit {
		t.Fatalf("cgroup %d, the unit has %d", c.CgroupID, unit)
	}
	c.end()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	tr.start("/system.slice/appx.service")
	unit, running := tr.UnitID("appx.service")
	if now, err := c.Now(); !running || c.CgroupID == unit || err != nil || now.CgroupID != 0 {
		t.Errorf("cgroup %d, the unit has %d, now %+v, %v", c.CgroupID, unit, now, err)
	}
}

func TestCheckUnits(t *testing.T) {
	t.Run("a tree without services of the system", func(t *testing.T) {
		tr := newTree(t)
		if err := tr.CheckUnits(); err == nil || !strings.Contains(err.Error(), "system.slice") {
			t.Errorf("got %v", err)
		}
		tr.start("/system.slice")
		if err := tr.CheckUnits(); err != nil {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a host with cgroups of version 1", func(t *testing.T) {
		host := peer.Host{Cgroups: t.TempDir()}
		if err := host.CheckUnits(); err == nil || !strings.Contains(err.Error(), "version 1 or both") {
			t.Errorf("got %v", err)
		}
		if err := (peer.Host{Cgroups: "/nonexistent"}).CheckUnits(); err == nil {
			t.Error("a directory that is not there is a tree of cgroups")
		}
	})
	t.Run("this machine", func(t *testing.T) {
		var fs unix.Statfs_t
		if err := unix.Statfs(peer.CgroupRoot, &fs); err != nil {
			t.Skip(err)
		}
		if err := (peer.Host{}).CheckUnits(); err == nil && fs.Type != unix.CGROUP2_SUPER_MAGIC {
			t.Error("a host with cgroups of version 1 has units")
		}
	})
}

package systemd_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/systemd"
)

// roleEnv has the test binary play a service: it takes its sockets and says what it got.
const roleEnv = "KEYAGENT_SYSTEMD_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) == "" {
		os.Exit(m.Run())
	}
	if err := json.NewEncoder(os.Stdout).Encode(serve()); err != nil {
		os.Exit(1)
	}
}

// report is what a service says of its sockets.
type report struct {
	Names     []string
	Addresses map[string]string // by name
	Error     string
	// Child is what a program sees that the service starts.
	Environment []string // LISTEN_… of it
	Sockets     int      // that it has
}

func serve() (r report) {
	sockets, err := systemd.TakeSockets()
	if err != nil {
		return report{Error: err.Error()}
	}
	r.Names, r.Addresses = sockets.Names(), map[string]string{}
	for _, name := range r.Names {
		ln, err := sockets.Take(name)
		if err != nil {
			return report{Names: r.Names, Error: err.Error()}
		}
		r.Addresses[name] = ln.Addr().String()
		if again, err := sockets.Take(name); again != nil || err != nil {
			r.Error = "a socket was taken twice"
		}
		defer ln.Close()
	}
	out, err := exec.Command("sh", "-c", "env; ls -l /proc/$$/fd").Output()
	if err != nil {
		r.Error = err.Error()
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "LISTEN_") {
			r.Environment = append(r.Environment, strings.TrimSpace(line))
		}
		r.Sockets += strings.Count(line, "socket:")
	}
	return r
}

// service starts one with files and variables, which may use $$ for its process id.
func service(t *testing.T, variables string, files ...*os.File) report {
	t.Helper()
	cmd := exec.Command("sh", "-c", variables+" exec /proc/$PPID/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=1")
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	return reportOf(t, cmd)
}

func reportOf(t *testing.T, cmd *exec.Cmd) (r report) {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return r
}

func listen(t *testing.T, multipath bool, network, address string) (*os.File, string) {
	t.Helper()
	var cfg net.ListenConfig
	cfg.SetMultipathTCP(multipath)
	ln, err := cfg.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	file, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file, ln.Addr().String()
}

func TestSocketsAreTakenByName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	socket, _ := listen(t, false, "unix", path)
	tcp, address := listen(t, false, "tcp", "127.0.0.1:0")
	got := service(t, "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=agent:web", socket, tcp)
	want := report{Names: []string{"agent", "web"}, Addresses: map[string]string{"agent": path, "web": address}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the Unix socket is gone: %v", err)
	}
}

func TestWhatIsNotForThisProcessIsLeftAlone(t *testing.T) {
	tcp, _ := listen(t, false, "tcp", "127.0.0.1:0")
	for name, variables := range map[string]string{
		"no variables": "", "another process'": "LISTEN_PID=1 LISTEN_FDS=1 LISTEN_FDNAMES=web",
		"nobody's": "LISTEN_FDS=1 LISTEN_FDNAMES=web", "no sockets": "LISTEN_PID=$$ LISTEN_FDS=0",
	} {
		got := service(t, variables, tcp)
		if len(got.Names) > 0 || got.Error != "" || len(got.Environment) > 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestSocketsThatAreRefused(t *testing.T) {
	tcp, _ := listen(t, false, "tcp", "127.0.0.1:0")
	other, _ := listen(t, false, "tcp", "127.0.0.1:0")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	socketOf := func(domain, kind int) *os.File {
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { _ = file.Close() })
		return file
	}
	const one = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web"
	tests := []struct {
		name, variables string
		files           []*os.File
		says            string
	}{
		{"a file", one, []*os.File{null}, "it is not a socket"},
		{"nothing at all", one, nil, "it is not a socket"},
		{"one that does not listen", one, []*os.File{socketOf(unix.AF_INET, unix.SOCK_STREAM)}, "not a listening stream socket"},
		{"one for datagrams", one, []*os.File{socketOf(unix.AF_INET, unix.SOCK_DGRAM)}, "not a listening stream socket"},
		{"two of one name", "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:web", []*os.File{tcp, other}, "2 sockets with the name web"},
		{"no names", "LISTEN_PID=$$ LISTEN_FDS=2", []*os.File{tcp, other}, `2 sockets with the names ""`},
		{"too many names", "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=a:b", []*os.File{tcp}, `1 sockets with the names "a:b"`},
		{"a number that is none", "LISTEN_PID=$$ LISTEN_FDS=many LISTEN_FDNAMES=a", []*os.File{tcp}, `LISTEN_FDS is "many"`},
		{"a negative number", "LISTEN_PID=$$ LISTEN_FDS=-1 LISTEN_FDNAMES=a", []*os.File{tcp}, `LISTEN_FDS is "-1"`},
		{"a huge number", "LISTEN_PID=$$ LISTEN_FDS=1000000000 LISTEN_FDNAMES=a", []*os.File{tcp}, "LISTEN_FDS is"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := service(t, tt.variables, tt.files...); !strings.Contains(got.Error, tt.says) {
				t.Errorf("got %+v, want …%s…", got, tt.says)
			}
		})
	}
	t.Run("one that speaks Multipath TCP", func(t *testing.T) {
		multipath, _ := listen(t, true, "tcp", "127.0.0.1:0")
		if protocol, err := unix.GetsockoptInt(int(multipath.Fd()), unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || protocol != unix.IPPROTO_MPTCP {
			t.Skip("this kernel has no Multipath TCP")
		}
		if got := service(t, one, multipath); !strings.Contains(got.Error, "Multipath TCP") {
			t.Errorf("got %+v", got)
		}
	})
}

func TestNoSocketsAreNoTrouble(t *testing.T) {
	var none *systemd.Sockets
	if ln, err := none.Take("web"); ln != nil || err != nil || none.Names() != nil || none.Close() != nil {
		t.Errorf("got %v, %v", ln, err)
	}
}

// systemd's own program passes them as systemd does.
func TestSocketActivate(t *testing.T) {
	activate := tooltest.Tool(t, "systemd-socket-activate")
	path := filepath.Join(t.TempDir(), "s")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(activate, "-l", path, "--fdname=agent", "-E", roleEnv+"=1", program)
	connected := make(chan struct{})
	go func() { // it starts the service when somebody connects
		defer close(connected)
		for {
			if conn, err := net.Dial("unix", path); err == nil {
				_ = conn.Close()
				return
			}
			select {
			case <-t.Context().Done():
				return
			default:
			}
		}
	}()
	got := reportOf(t, cmd)
	<-connected
	if !slices.Equal(got.Names, []string{"agent"}) || got.Addresses["agent"] != path || got.Error != "" {
		t.Errorf("got %s", fmt.Sprint(got))
	}
}

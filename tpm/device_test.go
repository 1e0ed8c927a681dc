package tpm_test

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, device string
		unavailable  bool
		want         []string
	}{
		{"no such device", "/dev/tpm-that-is-not-there", true, []string{"/dev/tpm-that-is-not-there", "no such file", "shows no TPM"}},
		{"the same, written as device:", "device:/dev/tpm-that-is-not-there", true, []string{"/dev/tpm-that-is-not-there"}},
		{"no such socket", "unix:" + dir + "/none.sock", true, []string{"unix:" + dir + "/none.sock", "emulator"}},
		{"nobody listens", "tcp:127.0.0.1:1", true, []string{"tcp:127.0.0.1:1", "refused"}},
		{"a file", file, true, []string{"not a character device"}},
		{"a socket without unix:", socket(t), true, []string{"write unix:"}},
		{"an unknown scheme", "spi:/dev/spidev0", false, []string{"spi:/dev/spidev0", "write device:"}},
		{"a relative path", "tpmrm0", false, []string{"write device:"}},
		{"a scheme without an address", "unix:", false, []string{"write device:"}},
		{"tcp without a port", "tcp:localhost", false, []string{"tcp:HOST:PORT"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			opened, err := tpm.Open(t.Context(), tpm.Config{Device: tt.device})
			if err == nil {
				t.Fatal(opened.Close())
			}
			if tt.unavailable {
				fails(t, err, tpm.ErrUnavailable)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" { // #nosec G304 -- the test's own
		t.Errorf("a file that was given as device now holds %q, %v", content, err)
	}
}

func socket(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return path
}

func TestOpenRefusesDevicesThatAreNoTPM2(t *testing.T) {
	t.Parallel()
	family := func(v uint32) []byte { // TPM2_GetCapability, one property
		b := []byte{0x80, 1, 0, 0, 0, 27, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 1, 0}
		return binary.BigEndian.AppendUint32(b, v)
	}
	tpm12 := tpmtest.Response(30) // TPM_BAD_TAG
	binary.BigEndian.PutUint16(tpm12, 0x00c4)
	proxy := tpmtest.NewProxy(t, tpmtest.Bare(t).Device())
	for _, tt := range []struct {
		name string
		rsp  []byte
		want string
	}{
		{"a TPM 1.2", tpm12, "TPM 2.0"},
		{"another family", family(0x312e3200), "not a TPM 2.0"},
		{"a TPM in failure mode", tpmtest.Response(0x101), "power cycle"},
		{"something that is no TPM", []byte("220 mail.example.org ESMTP\r\n"), "not a TPM"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy.Handle(func([]byte, tpmtest.Forward) ([]byte, error) { return tt.rsp, nil })
			opened, err := tpm.Open(t.Context(), tpm.Config{Device: proxy.Device()})
			if err == nil {
				t.Fatal(opened.Close())
			}
			fails(t, err, tpm.ErrUnavailable)
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q does not say %q", err, tt.want)
			}
		})
	}
}

func TestOpenStartsATPMThatWasNotStarted(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Bare(t).Device())
	started := false
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		switch {
		case tpmtest.CommandCode(command) == 0x144:
			started = true
			return tpmtest.Response(0), nil
		case !started:
			return tpmtest.Response(0x100), nil // TPM_RC_INITIALIZE
		}
		return forward(command)
	})
	tpmtest.Connect(t, proxy.Device())
}

func TestTCP(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	backend := tpmtest.Bare(t).Device()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		pipe(conn, backend)
	}()
	checkSigns(t, tpmtest.CreateKey(t, tpmtest.Connect(t, "tcp:"+l.Addr().String())))
}

// pipe carries bytes between a client and the TPM at a Unix socket.
func pipe(client io.ReadWriteCloser, device string) {
	upstream, err := net.Dial("unix", strings.TrimPrefix(device, "unix:"))
	if err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(upstream, client)
		_ = upstream.Close()
	}()
	_, _ = io.Copy(client, upstream)
	_ = client.Close()
	<-done
}

// A pseudo-terminal is a character device that the test can play the TPM behind. It has no
// deadlines when it blocks, as a TPM device has not.
func TestCharacterDevice(t *testing.T) {
	t.Parallel()
	master, path := terminal(t)
	backend, err := net.Dial("unix", strings.TrimPrefix(tpmtest.Bare(t).Device(), "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		serveTerminal(master, backend)
	}()
	on, err := tpm.Open(t.Context(), tpm.Config{Device: "device:" + path})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		do(t, on, func(c transport.TPM) error {
			b, err := random(c, 48)
			if len(b) != 48 {
				t.Errorf("%d bytes", len(b))
			}
			return err
		})
	}
	if err := on.Close(); err != nil {
		t.Error(err)
	}
	_ = master.Close()
	_ = backend.Close()
	<-served
}

// serveTerminal carries commands and responses until either side closes.
func serveTerminal(master *os.File, backend net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf)
		if err != nil {
			return
		}
		if _, err := backend.Write(buf[:n]); err != nil {
			return
		}
		if n, err = backend.Read(buf); err != nil {
			return
		}
		if _, err := master.Write(buf[:n]); err != nil {
			return
		}
	}
}

// terminal makes a raw pseudo-terminal and returns its master side and the path of the other.
func terminal(t *testing.T) (*os.File, string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	err = raw.Control(func(fd uintptr) { number = prepareTerminal(t, int(fd)) })
	if err != nil {
		t.Fatal(err)
	}
	return master, "/dev/pts/" + strconv.Itoa(number)
}

func prepareTerminal(t *testing.T, fd int) int {
	t.Helper()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	mode.Iflag, mode.Oflag, mode.Lflag = 0, 0, 0
	mode.Cc[unix.VMIN], mode.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, mode); err != nil {
		t.Fatal(err)
	}
	return number
}

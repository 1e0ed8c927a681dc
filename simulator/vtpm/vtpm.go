package vtpm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/google/go-tpm-tools/simulator"
	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/simulator/bootlog"
)

// Config says where the TPM is to be found and what it holds.
type Config struct {
	Socket string // path of the Unix socket; a stale one is replaced
	Azure  bool   // lay the TPM out as on an Azure Confidential VM
	Shared bool   // all connections share the TPM's slots, as without a resource manager

	Boot *bootlog.Log // what firmware measures at each start, before the guest; nil: nothing
}

// TPM is a running virtual TPM. It is safe for concurrent use. Close it.
type TPM struct {
	socket   string
	azure    bool
	shared   bool
	measured *bootlog.Log
	listener net.Listener
	serving  sync.WaitGroup
	shut     sync.Once

	report hclReport

	mu       sync.Mutex // around every command
	sim      *simulator.Simulator
	guests   map[*guest]struct{}
	resident *guest                    // the guest whose objects and sessions are in the TPM, or nil
	commands map[tpm2.TPMCC]attributes // constant
	ak       []byte                    // TPMT_PUBLIC
	closed   bool
}

// Start powers the TPM on and listens. It waits for another TPM of this process to be closed, no
// longer than ctx allows; apart from that ctx is not kept.
func Start(ctx context.Context, cfg Config) (*TPM, error) {
	sim, err := powerOn(ctx)
	if err != nil {
		return nil, fmt.Errorf("starting the TPM simulator: %w", err)
	}
	t := &TPM{
		socket: cfg.Socket, azure: cfg.Azure, shared: cfg.Shared, measured: cfg.Boot, sim: sim,
		guests: make(map[*guest]struct{}),
	}
	if t.commands, err = readAttributes(locked{t}); err == nil {
		err = t.boot()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the TPM simulator: %w", err), sim.Close())
	}
	if t.listener, err = listen(ctx, cfg.Socket); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the TPM simulator: %w", err), sim.Close())
	}
	t.serving.Go(t.accept)
	return t, nil
}

// powerOn gets the process' one simulator. Where the caller does not want to wait any longer, it is
// given back when it comes.
func powerOn(ctx context.Context) (*simulator.Simulator, error) {
	type result struct {
		sim *simulator.Simulator
		err error
	}
	got := make(chan result)
	go func() {
		sim, err := simulator.Get()
		select {
		case got <- result{sim, err}:
		case <-ctx.Done():
			if err == nil {
				_ = sim.Close() // nobody used it
			}
		}
	}()
	select {
	case r := <-got:
		return r.sim, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("another TPM runs in this process: %w", ctx.Err())
	}
}

// listen makes the socket, for this user only.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Device returns the TPM's address, as the agent takes it: "unix:" and the path.
func (t *TPM) Device() string { return "unix:" + t.socket }

// Reset reboots the machine: an orderly shutdown, power off, power on. Seeds, NV and persistent
// keys stay; loaded objects, sessions and PCR values are gone. Connections stay open, so that a
// client can be tested that survives it.
func (t *TPM) Reset(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return net.ErrClosed
	}
	if err := t.sim.Reset(); err != nil {
		return fmt.Errorf("resetting the TPM simulator: %w", err)
	}
	for g := range t.guests {
		clear(g.space)
	}
	return t.bootLocked()
}

// Close disconnects all clients and powers the TPM off. What it held is lost. Further calls do
// nothing.
func (t *TPM) Close() error {
	var err error
	t.shut.Do(func() {
		err = t.listener.Close()
		t.disconnect()
		t.serving.Wait()
		t.mu.Lock()
		defer t.mu.Unlock()
		err = errors.Join(err, t.sim.Close())
	})
	return err
}

// disconnect closes every connection and lets no new one in.
func (t *TPM) disconnect() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for g := range t.guests {
		_ = g.conn.Close() // its server sees the end
	}
}

// Disconnect closes the connections that clients have now, as a restart of the TPM's service would.
// They may come back.
func (t *TPM) Disconnect() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for g := range t.guests {
		_ = g.conn.Close() // its server sees the end
	}
}

// Send executes one command past all that is between a client and the TPM. It makes TPM a
// transport.TPM, for tests that need the platform's rights or look at what clients cannot see.
func (t *TPM) Send(command []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sendLocked(command)
}

func (t *TPM) sendLocked(command []byte) ([]byte, error) {
	if _, err := t.sim.Write(command); err != nil {
		return nil, err
	}
	rsp := make([]byte, maxMessageBytes)
	n, err := t.sim.Read(rsp)
	return rsp[:n], err
}

// locked is a transport for callers that hold the lock.
type locked struct{ tpm *TPM }

func (l locked) Send(command []byte) ([]byte, error) { return l.tpm.sendLocked(command) }

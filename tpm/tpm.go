package tpm

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tpm/internal/device"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// defaultCommandTimeout is longer than a TPM takes for anything: the slowest, making an RSA key,
// may need a minute on old hardware, and the kernel gives it about as long.
const defaultCommandTimeout = 90 * time.Second

// DefaultDevice is the kernel's resource manager: each open of it is a space of its own, whose
// objects and sessions are flushed when it closes. The device without rm in its name, /dev/tpm0, is
// the bare TPM.
const DefaultDevice = device.DefaultDevice

// Config says which TPM to open, and how.
type Config struct {
	// Device is "/dev/tpmrm0" or "device:/dev/tpmrm0", "unix:/path/to/socket" or "tcp:host:port"
	// (sockets carry raw TPM commands, as swtpm --server speaks). Empty means [DefaultDevice].
	Device string

	// Logger gets a record of each connection that is opened or lost. Nil: no log.
	Logger *slog.Logger

	// CommandTimeout is the longest that one command may take before the transport is given up. 0
	// means 90 s.
	CommandTimeout time.Duration

	// StorageRoot is the Name that the storage root must have, as [TPM.StorageRoot] once gave it.
	// All protection of commands hangs on it: with another key in its place, whoever put it there
	// could read and change what goes over the wire. Nil means that it is not known yet, and the
	// first one found is taken.
	StorageRoot []byte

	// OwnerAuth gives the password of the owner hierarchy, for a TPM that has one. It is asked each
	// time that the TPM demands the password: to make the storage root anew, to put a key to a
	// persistent handle, to read the platform's NV indices. It must not use the TPM. Nil: none is
	// known.
	OwnerAuth func() (secret.String, error)

	// Waiting is called with what a caller waits for, its turn and then the TPM, and its result
	// when that is over. Neither may block. Nil: not called.
	Waiting func(what string) (over func())

	// Observer is told of turns and commands, for statistics. Nil: nobody is.
	Observer Observer

	// PlainSessions sends authorization values as passwords, in place of salted HMAC sessions with
	// encryption. It saves some time per command, and anybody between this process and the TPM can
	// then see and change commands and answers.
	PlainSessions bool

	// SessionUses is after how many commands a session is replaced. 0 means 4096.
	SessionUses int

	// SessionIdle is after how long without use a session is flushed. 0 means one minute.
	SessionIdle time.Duration
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Waiting == nil {
		c.Waiting = func(string) func() { return func() {} }
	}
	c.CommandTimeout = cmp.Or(c.CommandTimeout, defaultCommandTimeout)
	c.SessionUses = cmp.Or(c.SessionUses, defaultSessionUses)
	c.SessionIdle = cmp.Or(c.SessionIdle, defaultSessionIdle)
	return c
}

// Observer is told what the TPM is used for: how long callers wait for their turn, and each command
// with its time and its outcome, which is "success", "error" (the TPM has answered with a code),
// "abandoned" (the caller did not wait for the answer) or "lost" (the connection was). It must not
// block, nor use the TPM.
type Observer = device.Observer

// TPM is an open TPM 2.0. It is safe for concurrent use. Close it.
type TPM struct {
	device    *device.Device
	log       *slog.Logger
	ownerAuth func() (secret.String, error)

	// The rest belongs to the turn:

	sessions         sessions
	known            known
	seen             seen
	implemented      implemented
	ownerHasPassword bool // and it was the one given
}

// turn is a caller's exclusive use of a TPM, with the facts known of that TPM.
type turn struct {
	*device.Turn
	tpm *TPM
}

// Open connects to the TPM and checks that it is one. The context bounds the opening only. If the
// TPM cannot be reached the error is [ErrUnavailable], names the device and says what to do.
func Open(ctx context.Context, cfg Config) (*TPM, error) {
	at, err := device.ParseAddress(cfg.Device)
	if err != nil {
		return nil, err
	}
	t := unopened(ctx, at, cfg)
	if _, err := t.Identity(ctx); err != nil {
		_ = t.Close()
		return nil, err
	}
	return t, nil
}

func unopened(ctx context.Context, at device.Address, cfg Config) *TPM {
	cfg = cfg.withDefaults()
	return &TPM{
		device: device.New(ctx, at, device.Config{
			Logger: cfg.Logger, CommandTimeout: cfg.CommandTimeout, SessionIdle: cfg.SessionIdle, Waiting: cfg.Waiting,
			Observer: cfg.Observer,
		}),
		log:       cfg.Logger,
		ownerAuth: cfg.OwnerAuth,
		sessions:  sessions{plain: cfg.PlainSessions, maxUses: cfg.SessionUses},
		known:     newKnown(cfg.StorageRoot),
	}
}

// Close waits for the turn that is running, flushes the keys and sessions that are loaded and all
// that is still to be flushed, for ten seconds at most, and closes the transport. Callers that wait
// for the TPM get [ErrClosed]. Further calls do nothing. The error is always nil; it is there for
// io.Closer.
func (t *TPM) Close() error {
	t.device.Close()
	return nil
}

// Queued returns how many callers wait for the TPM.
func (t *TPM) Queued() int { return t.device.Queued() }

// Stands returns since when the turn under way has not moved: no command was sent, and none
// answered. The zero time: nobody has the TPM. Each command ends after [Config].CommandTimeout and
// a quarter of it at the latest, so what stands for longer stands for ever.
func (t *TPM) Stands() time.Time { return t.device.Stands() }

// Do gives f the TPM for itself: a sequence of commands that nobody else's come between. It waits
// for its turn, no longer than ctx allows, and returns f's error.
//
// What f loads it should flush, also when ctx has ended: a flush is then still accepted, as one is
// that the TPM puts off. An object meant to stay loaded past Do takes one of the few slots for as
// long. f must not call any method of this TPM or its keys: Do is not re-entrant.
//
// f is run once. If the transport dies under it, f gets an [ErrUnavailable] from the command that
// was under way, and the next command finds a new connection, where handles of the old one mean
// nothing. Its commands are sent as they are: f sees to their protection.
func (t *TPM) Do(ctx context.Context, f func(transport.TPM) error) error {
	return t.do(ctx, func(turn *turn) error { return f(turn) })
}

func (t *TPM) do(ctx context.Context, f func(*turn) error) error {
	begun, err := t.device.Begin(ctx)
	if err != nil {
		return err
	}
	defer begun.End()
	return rc.Advise(f(&turn{begun, t}))
}

// again is do for a sequence that may be repeated: it is, once, if the transport died under it.
func (t *TPM) again(ctx context.Context, f func(*turn) error) error {
	err := t.do(ctx, f)
	if !device.Repeatable(err) || ctx.Err() != nil {
		return err
	}
	return t.do(ctx, f)
}

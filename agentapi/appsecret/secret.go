package appsecret

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/keyagent/keyagent/internal/secret"
)

// Prefix begins every secret, so that one can be recognised where it must not be: in a URL, a log
// or a repository.
const Prefix = "keyagent1_"

// Limits of a secret's parts.
const (
	maxIdentityBytes = 128
	maxProcessBytes  = 128
	maxTextBytes     = 640
)

// Lifetime says with what a secret ends. Its zero value is none.
type Lifetime byte

// The lifetimes.
const (
	Process Lifetime = 1 // the process that it was given to
	Unit    Lifetime = 2 // the cgroup that it was given in, which is that of a systemd unit
)

// Holder is the program that a secret is given to, as far as the secret says it.
type Holder struct {
	Lifetime Lifetime
	UID      uint32
	CgroupID uint64 // 0: not known, so that the secret is good in every cgroup
	Identity string // that requests without a selector mean
	Process  string // as peer.Caller.ProcessID has it; required for [Process]
}

// Presenter is the caller that shows a secret, as the kernel tells it.
type Presenter struct {
	UID      uint32
	CgroupID uint64 // 0: not known
}

// Why a secret is not taken.
var (
	ErrUnknown = errors.New("the secret is not one that this agent has made since the machine was started")
	ErrUser    = errors.New("the secret was given to another user")
	ErrUnit    = errors.New("the secret was given in another systemd unit or cgroup")
	ErrEnded   = errors.New("the process that the secret was given to has ended")
)

// ErrNoUnit is why no secret with lifetime [Unit] is made.
var ErrNoUnit = errors.New("it is not known in which cgroup the caller is, or it is in none of its own")

// rootCgroup is the id of the cgroup at the root. Where cgroups of version 2 are not in use, all
// processes are in it.
const rootCgroup = 1

// Watched is a process that is watched until it is closed; then, too, it does not count as running.
type Watched interface {
	Running() bool
	Close() error
}

// Watch finds a process that [Holder.Process] names; false if it has ended, or that cannot be told.
// It must be safe for concurrent use.
type Watch func(process string) (Watched, bool)

// Keeper makes and checks secrets with one key. It is safe for concurrent use.
type Keeper struct {
	key   secret.String
	boot  string
	watch Watch
	kept  *kept
}

// New returns a keeper for a key of at least 32 bytes, on a machine whose present boot has the id.
// Close it at the end.
func New(key secret.String, boot string, watch Watch) (*Keeper, error) {
	if len(key.Reveal()) < keyBytes || boot == "" || watch == nil {
		return nil, errors.New("appsecret: a key of 32 bytes, the id of the boot and a way to find processes are required")
	}
	return &Keeper{key: key, boot: boot, watch: watch, kept: new(kept)}, nil
}

// Close lets go of processes that are watched although no connection shows their secret now. The
// keeper can still be used.
func (k *Keeper) Close() error {
	k.kept.close()
	return nil
}

// Mint makes a secret for a holder.
func (k *Keeper) Mint(h Holder) (secret.String, error) {
	switch {
	case h.Lifetime == Unit && h.CgroupID <= rootCgroup:
		return secret.String{}, ErrNoUnit
	case h.Lifetime == Process && h.Process == "", h.Lifetime != Process && h.Lifetime != Unit:
		return secret.String{}, errors.New("making a secret: nothing says when it ends")
	case h.Identity == "" || len(h.Identity) > maxIdentityBytes || len(h.Process) > maxProcessBytes:
		return secret.String{}, fmt.Errorf("making a secret: identity of %d bytes, process of %d bytes", len(h.Identity), len(h.Process))
	}
	var random [randomBytes]byte
	_, _ = rand.Read(random[:]) // it never fails
	return secret.New(k.text(h.encode(random))), nil
}

// text is the secret that says so.
func (k *Keeper) text(said []byte) string {
	return Prefix + encoding.EncodeToString(slices.Concat(said, k.code(said)))
}

// Check returns the identity that the secret names, or why the presenter may not use it. Where the
// same secret is shown again and again, [Keeper.Open] is the cheaper way.
func (k *Keeper) Check(text string, by Presenter) (identity string, err error) {
	shown, err := k.Open(text)
	if err != nil {
		return "", err
	}
	defer func() { _ = shown.Close() }()
	return shown.Check(by)
}

// Shown is a secret that this agent has made, with the process that it ends with, as long as
// somebody shows it. It is safe for concurrent use.
type Shown struct {
	kept *kept

	mu     sync.Mutex
	opened *opened // nil: it was closed
}

// Open finds out whether a text is a secret of this agent. Close what it returns at the end.
func (k *Keeper) Open(text string) (*Shown, error) {
	if o := k.kept.take(text); o != nil {
		return &Shown{kept: k.kept, opened: o}, nil
	}
	h, err := k.open(text)
	if err != nil {
		return nil, err
	}
	o := &opened{text: secret.New(text), holder: h}
	if h.Lifetime == Process {
		if process, found := k.watch(h.Process); found {
			o.process = process
		}
	}
	return &Shown{kept: k.kept, opened: o}, nil
}

// Is reports whether a text is this secret, in constant time. One that was closed is none.
func (s *Shown) Is(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened != nil && s.opened.text.Equal(secret.New(text))
}

// Check returns the identity that the secret names, or why the presenter may not use it now.
func (s *Shown) Check(by Presenter) (identity string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened == nil {
		return "", ErrEnded
	}
	h, process := s.opened.holder, s.opened.process
	switch {
	case h.UID != by.UID:
		return "", ErrUser
	case h.Lifetime == Unit && h.CgroupID != by.CgroupID,
		h.CgroupID > rootCgroup && by.CgroupID != 0 && h.CgroupID != by.CgroupID:
		return "", ErrUnit
	case h.Lifetime == Process && (process == nil || !process.Running()):
		return "", ErrEnded
	}
	return h.Identity, nil
}

// Close is called when the secret is not shown any more. After it, it is not taken. The keeper may
// go on to watch its process, for the next who shows the secret.
func (s *Shown) Close() error {
	s.mu.Lock()
	o := s.opened
	s.opened = nil
	s.mu.Unlock()
	if o == nil {
		return nil
	}
	return s.kept.put(o)
}

// open returns what an authentic secret says.
func (k *Keeper) open(text string) (Holder, error) {
	encoded, ours := strings.CutPrefix(text, Prefix)
	if !ours || len(text) > maxTextBytes {
		return Holder{}, ErrUnknown
	}
	data, err := encoding.DecodeString(encoded)
	if err != nil || len(data) < sha256.Size || strings.ContainsAny(encoded, "\r\n") { // which are skipped
		return Holder{}, ErrUnknown
	}
	said, code := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if !hmac.Equal(code, k.code(said)) {
		return Holder{}, ErrUnknown
	}
	return decode(said)
}

// code authenticates the content of a secret, for this boot: a pid and a cgroup's id mean nothing
// in another one.
func (k *Keeper) code(said []byte) []byte {
	mac := hmac.New(sha256.New, []byte(k.key.Reveal()))
	mac.Write([]byte("keyagent app secret\x00" + k.boot + "\x00"))
	mac.Write(said)
	return mac.Sum(nil)
}

// encoding takes no other text for the same bytes.
var encoding = base64.RawURLEncoding.Strict()

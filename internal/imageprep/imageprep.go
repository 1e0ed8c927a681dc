package imageprep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// Item is something that will be removed.
type Item struct {
	Path string `json:"path"`
	What string `json:"what"`
}

// Place is a key's place in the TPM's memory, which is freed if it is in this TPM.
type Place struct {
	Key    string `json:"key"`
	Handle string `json:"handle"`
}

// Inventory is what a machine has of its own.
type Inventory struct {
	Items   []Item  `json:"items"`
	Places  []Place `json:"persistent_keys,omitempty"`
	Unknown []Item  `json:"unknown,omitempty"` // in the state directory, and not known to be the agent's
	Stays   []Item  `json:"stays,omitempty"`   // outside of it, and not removed: see Beside

	cfg  *config.Config
	opts statedir.Options
}

// Look lists the files and keys to be removed, by the configuration's places; with audit, the file
// of audit records, too. It changes nothing. It fails while an agent runs, and for another user
// than the agent's.
func Look(cfg *config.Config, opts statedir.Options, audit bool) (*Inventory, error) {
	inv := &Inventory{cfg: cfg, opts: opts.WithDefaults()}
	if err := statedir.CheckOwner(cfg.StateDir); err != nil {
		return nil, err
	}
	if held := statefile.Holder(cfg.StateDir); held != nil {
		return nil, runs(held)
	}
	if listens(cfg.Socket) {
		return nil, startsAgain(fmt.Errorf("somebody listens at %s for an agent that does not run: the next program that asks for a token starts it", cfg.Socket))
	}
	present, err := statedir.Existing(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	if present {
		if err := inv.listState(); err != nil {
			return nil, err
		}
	}
	inv.Stays = Beside(cfg, "/")
	return inv, inv.listAudit(audit)
}

const notKnown = "not known to be the agent's"

// runs says that there is an agent, and that another would start if its sockets stayed.
func runs(held *statefile.InUseError) error {
	return startsAgain(fmt.Errorf("%w: it would make the removed keys anew", held))
}

func startsAgain(err error) error {
	return advice.To(err, "stop it, and what starts it, first: systemctl disable --now 'keyagent*.socket' keyagent.service")
}

func (inv *Inventory) listState() error {
	entries, err := os.ReadDir(inv.cfg.StateDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		item := Item{filepath.Join(inv.cfg.StateDir, e.Name()), whatIs(e)}
		if item.What == "" {
			item.What = notKnown
			inv.Unknown = append(inv.Unknown, item)
			continue
		}
		inv.Items = append(inv.Items, item)
		if !e.IsDir() {
			continue
		}
		_, unknown, err := listKeys(inv.cfg)
		if err != nil {
			return err
		}
		inv.Unknown = append(inv.Unknown, unknown...)
	}
	slices.SortStableFunc(inv.Items, func(a, b Item) int { return cmp.Compare(inv.order(a), inv.order(b)) })
	return inv.listPlaces()
}

// order has the note of the storage root at the end.
func (inv *Inventory) order(i Item) int {
	if i.Path == statedir.RootFile(inv.cfg.StateDir) {
		return 1
	}
	return 0
}

// whatIs says what an entry of the state directory is; "" if that is not known.
func whatIs(e fs.DirEntry) string {
	name := e.Name()
	if e.IsDir() {
		if name == keystore.Dir {
			return "keys of this machine's TPM, with their certificates"
		}
		return ""
	}
	name, _, torn := strings.Cut(name, ".torn-")
	what := ""
	switch {
	case !e.Type().IsRegular():
		return ""
	case name == "storage-root":
		what = "which TPM the keys belong to"
	case name == "appsecret.key":
		what = "the key of the secrets that programs show to the agent"
	case name == "software-key.pem":
		what = "the agent's key, which is in no TPM"
	case strings.HasPrefix(name, "binding-") && strings.HasSuffix(name, ".json"):
		what = "a binding certificate of one of this machine's identities"
	case name == "agent.pid":
		what = "the process that the agent was"
	case strings.HasPrefix(name, ".") && strings.Contains(name, ".tmp-"):
		what = "a file that was not finished"
	}
	if torn && what != "" {
		what += " (damaged, and put aside)"
	}
	return what
}

// listPlaces looks which keys are kept in the TPM, too. A key's record that cannot be read names
// none that could be freed.
func (inv *Inventory) listPlaces() error {
	store, err := statedir.OpenStore(inv.cfg, inv.opts)
	if err != nil {
		return err
	}
	names, err := store.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		generations, err := store.Generations(name)
		if err != nil {
			continue
		}
		for _, g := range generations {
			if g.Persistent != 0 {
				inv.Places = append(inv.Places, Place{name, fmt.Sprintf("0x%08x", uint32(g.Persistent))})
			}
		}
	}
	return nil
}

func (inv *Inventory) listAudit(wanted bool) error {
	path := inv.cfg.Audit.Path()
	if path == "" || !wanted {
		return nil
	}
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	inv.Items = append(inv.Items, Item{path, "audit records of this machine"})
	return err
}

// Empty reports whether there is nothing to remove.
func (inv *Inventory) Empty() bool { return len(inv.Items) == 0 }

// CheckUnknown refuses where something is left that is not known to be the agent's: nobody could
// say then that an image of this machine has nothing of it.
func (inv *Inventory) CheckUnknown() error {
	if len(inv.Unknown) == 0 {
		return nil
	}
	var names []string
	for _, item := range inv.Unknown {
		names = append(names, item.Path)
	}
	return advice.To(fmt.Errorf("the state directory has files not known to be the agent's: %s", strings.Join(names, ", ")),
		"look at it, and move or remove it yourself: it would be in every clone")
}

// Remove removes the listed files and keys. It returns an error for each key that was left in a
// TPM. It blocks while the TPM works.
func (inv *Inventory) Remove(ctx context.Context) (left []error, err error) {
	if err := inv.CheckUnknown(); err != nil {
		return nil, err
	}
	if inv.Empty() {
		return nil, nil
	}
	unlock := func() error { return nil }
	if _, err := os.Lstat(inv.cfg.StateDir); err == nil {
		unlock, err = statefile.Lock(inv.cfg.StateDir)
		if held, ok := errors.AsType[*statefile.InUseError](err); ok {
			return nil, runs(held)
		}
		if err != nil {
			return nil, err
		}
	}
	left, err = inv.removeLocked(ctx)
	return left, errors.Join(err, unlock())
}

func (inv *Inventory) removeLocked(ctx context.Context) (left []error, err error) {
	if len(inv.Places) > 0 {
		if left, err = inv.freePlaces(ctx); err != nil {
			return left, err
		}
	}
	for _, item := range inv.Items {
		if err := ctx.Err(); err != nil {
			return left, err
		}
		remove := func() error { return os.Remove(item.Path) }
		if item.Path == filepath.Join(inv.cfg.StateDir, keystore.Dir) {
			remove = inv.removeKeys
		}
		if err := remove(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return left, err
		}
	}
	return left, nil
}

// freePlaces takes keys out of the TPM's memory. Where the keys are another TPM's, or the TPM does
// not answer, the keys left there are reported, and the files are removed all the same: another
// machine's TPM does not go with the image either.
func (inv *Inventory) freePlaces(ctx context.Context) (left []error, err error) {
	t, store, err := statedir.OpenKeys(ctx, inv.cfg, inv.opts)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return []error{fmt.Errorf("keys at %s may be left in the TPM that they were made in: %w", inv.handles(), err)}, nil
	}
	defer t.Close()
	for _, name := range inv.placed() {
		if err := store.Delete(ctx, func(context.Context) (*tpm.TPM, error) { return t, nil }, name); err != nil && !errors.Is(err, keystore.ErrNoKey) {
			left = append(left, err)
		}
	}
	return left, ctx.Err()
}

// placed are the keys that have a place in the TPM, each once.
func (inv *Inventory) placed() []string {
	var names []string
	for _, p := range inv.Places {
		names = append(names, p.Key)
	}
	return slices.Compact(names)
}

func (inv *Inventory) handles() string {
	var all []string
	for _, p := range inv.Places {
		all = append(all, p.Handle)
	}
	return strings.Join(all, ", ")
}

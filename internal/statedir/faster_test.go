package statedir

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// Two processes start at once, without a note. An interposer between one of them and the TPM must
// not have its root accepted until the next start.
func TestTheNoteOfAFasterProcessIsCompared(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	root, err := on.StorageRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := append([]byte(nil), root.Name...)
	other[10] ^= 1
	for _, tt := range []struct {
		name string
		note []byte
		want error
	}{{"the same", root.Name, nil}, {"another", other, tpm.ErrStorageRoot}} {
		dir := filepath.Join(t.TempDir(), "state")
		path := filepath.Join(dir, storageRootFile)
		if err := errors.Join(statefile.EnsureDir(dir), statefile.WriteNew(path, []byte(hex.EncodeToString(tt.note)+"\n"))); err != nil {
			t.Fatal(err)
		}
		if err := holdToRoot(t.Context(), on, nil, path, slog.New(slog.DiscardHandler)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

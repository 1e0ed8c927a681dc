package keystore

import (
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer"
)

// maxOutcomeBytes bounds the outcome of a self-test: six trials of a hundred bytes, and some more.
const maxOutcomeBytes = 4 << 10

// Outcome is where the outcome of a generation's self-test is kept. It needs no lock: it is replaced in
// one step, names its key, and is only ever a reason to make fewer signatures. One that is left of a key
// that is gone is ignored.
func (s *Store) Outcome(e Entry) signer.Outcome { return testedFile(e.testedFile()) }

// testedFile is the path of the file.
type testedFile string

// Load reads the file.
func (f testedFile) Load() ([]byte, error) { return statefile.Read(string(f), maxOutcomeBytes) }

// Save replaces the file.
func (f testedFile) Save(outcome []byte) error { return statefile.Write(string(f), outcome) }

package fleet

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyagent/keyagent/attest"
)

// Placeholder stands for a file's name, without its suffix, in the path of its nonce.
const Placeholder = "{name}"

// maxNonceBytes bounds a file with one nonce, maxNonces the lines of a list.
const (
	maxNonceBytes = 1 << 10
	maxNonces     = 1 << 20
)

// FromFiles returns the challenges whose nonces are in a file each, in hexadecimal; its path is
// made of the template.
func FromFiles(template string, base attest.Challenge) func(string) (*attest.Challenge, error) {
	return func(name string) (*attest.Challenge, error) {
		path := strings.ReplaceAll(template, Placeholder, strings.TrimSuffix(name, Suffix))
		text, err := readFile(path)
		if err != nil {
			return nil, fmt.Errorf("its nonce: %w", err)
		}
		if len(text) > maxNonceBytes {
			return nil, fmt.Errorf("its nonce: %s has %d bytes", path, len(text))
		}
		ch, err := withNonce(base, string(bytes.TrimSpace(text)))
		if err != nil {
			return nil, fmt.Errorf("its nonce: %s: %w", path, err)
		}
		return ch, nil
	}
}

// Awaited returns the names of the files that there must be: one for each nonce that the template
// of [FromFiles] leads to. It refuses a nonce that is there twice, as [ReadList] does. The
// placeholder must be in the last part of the path, and only there.
func Awaited(template string) ([]string, error) {
	folder, file := filepath.Split(template)
	before, after, _ := strings.Cut(file, Placeholder)
	if strings.Contains(folder, Placeholder) || strings.Count(file, Placeholder) != 1 {
		return nil, fmt.Errorf("%s must be once in the last part of the path of nonces, and nowhere else", Placeholder)
	}
	entries, err := os.ReadDir(cmp.Or(folder, "."))
	if err != nil {
		return nil, err
	}
	var names []string
	taken := map[string]string{}
	for _, entry := range entries {
		name, isNonce := strings.CutPrefix(entry.Name(), before)
		name, ends := strings.CutSuffix(name, after)
		if !isNonce || !ends || name == "" || strings.HasPrefix(name, ".") {
			continue
		}
		text, err := readFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name(), err)
		}
		nonce := strings.ToLower(string(bytes.TrimSpace(text)))
		if other, twice := taken[nonce]; twice {
			return nil, fmt.Errorf("%s has the nonce of %s: give each machine its own", entry.Name(), other)
		}
		taken[nonce] = entry.Name()
		names = append(names, name+Suffix)
	}
	return names, nil
}

// List is which machine got which nonce.
type List struct {
	base   attest.Challenge
	nonces map[string]string // hexadecimal
	names  []string          // of files
}

// ReadList reads a list: on each line a file's name, with or without its suffix, and its nonce in
// hexadecimal. Empty lines, and lines that begin with #, do not count. No name and no nonce may
// come twice: a nonce that two machines got proves of neither that it answered by itself.
func ReadList(r io.Reader, base attest.Challenge) (*List, error) {
	l := &List{base: base, nonces: map[string]string{}}
	taken := map[string]int{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("line %d: want a name and a nonce in hexadecimal", n)
		}
		name := strings.TrimSuffix(fields[0], Suffix) + Suffix
		if _, twice := l.nonces[name]; twice {
			return nil, fmt.Errorf("line %d: %q comes twice", n, name)
		}
		ch, err := withNonce(base, fields[1])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		nonce := hex.EncodeToString(ch.Nonce)
		if before := taken[nonce]; before > 0 {
			return nil, fmt.Errorf("line %d: the nonce of line %d again: give each machine its own", n, before)
		}
		if filepath.Base(name) != name || len(l.names) == maxNonces {
			return nil, fmt.Errorf("line %d: %.60q is not the name of a file, or there are more than %d", n, fields[0], maxNonces)
		}
		l.nonces[name], taken[nonce] = nonce, n
		l.names = append(l.names, name)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return l, nil
}

// Names are the files that the list has nonces for.
func (l *List) Names() []string { return l.names }

// Challenge returns what the file with this name must answer.
func (l *List) Challenge(name string) (*attest.Challenge, error) {
	nonce, known := l.nonces[name]
	if !known {
		return nil, errors.New("the list of nonces has none for it")
	}
	return withNonce(l.base, nonce)
}

func withNonce(base attest.Challenge, text string) (*attest.Challenge, error) {
	nonce, err := hex.DecodeString(text)
	if err != nil {
		return nil, errors.New("the nonce is not hexadecimal")
	}
	base.Nonce = nonce
	if err := base.Validate(); err != nil {
		return nil, err
	}
	return &base, nil
}

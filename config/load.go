package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/keyagent/keyagent/internal/owned"
)

// Error lists everything that is wrong with a configuration, so that an
// operator can correct it in one go.
type Error struct {
	File     string
	Problems []string // each names the setting or the line
}

func (e *Error) Error() string {
	return e.File + ": " + strings.Join(e.Problems, "\n"+e.File+": ")
}

// Origin is the file that a configuration was read from.
type Origin struct {
	File   string
	SHA256 string // hexadecimal digest of the bytes that were read
}

// Load reads and checks the file at path.
func Load(path string) (*Config, error) {
	cfg, _, err := LoadFrom(path)
	return cfg, err
}

// LoadFrom is Load, and returns which file was read.
func LoadFrom(path string) (*Config, Origin, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, Origin{File: path}, err
	}
	cfg, err := Parse(path, data)
	sum := sha256.Sum256(data)
	return cfg, Origin{path, hex.EncodeToString(sum[:])}, err
}

// Parse decodes and checks the content of a configuration file; name is for
// messages. Errors about the content are an [*Error].
func Parse(name string, data []byte) (*Config, error) {
	cfg := defaults()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&cfg); err != nil && !errors.Is(err, io.EOF) {
		return nil, &Error{File: name, Problems: yamlProblems(data, err)}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, &Error{File: name, Problems: []string{"more than one YAML document"}}
	}
	cfg.complete()
	if problems := cfg.problems(); len(problems) > 0 {
		return nil, &Error{File: name, Problems: problems}
	}
	return &cfg, nil
}

// yamlProblems splits the decoder's error about data into its problems, one a line, and replaces
// Go's type names by words of the documentation.
func yamlProblems(data []byte, err error) []string {
	var typeErr *yaml.TypeError
	if !errors.As(err, &typeErr) {
		return []string{explainSyntax(data, strings.TrimPrefix(err.Error(), "yaml: "))}
	}
	problems := make([]string, len(typeErr.Errors))
	for i, text := range typeErr.Errors {
		problems[i] = yamlProblem(data, text)
	}
	return problems
}

func yamlProblem(data []byte, text string) string {
	field, goType, ok := strings.Cut(text, " not found in type ")
	if !ok {
		return misshapen(data, text)
	}
	line, given, _ := strings.Cut(field, "field ")
	text = line + "unknown setting " + given
	if isSecret(given) {
		return text + ": " + takesNoSecrets()
	}
	return text + meantIn(goType, given)
}

// complete fills in defaults that depend on the shape of the file.
func (c *Config) complete() {
	for i := range c.Rules {
		if len(c.Rules[i].Types) == 0 {
			c.Rules[i].Types = []string{TypeBearer}
		}
	}
	for _, id := range c.Identities {
		if id.ManagedIdentity != nil {
			id.ManagedIdentity.complete()
		}
		if id.Application != nil {
			id.Application.complete()
		}
	}
}

func readFile(path string) ([]byte, error) {
	data, err := ReadTrusted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no configuration at %s: %w", path, fs.ErrNotExist)
	}
	return data, err
}

// ReadTrusted reads a file on which trust depends: the configuration, or the certificate
// authorities that it names. The file and all directories that lead to it must belong to root or to
// the agent's user, and no other user may be able to write the file or to replace it (the rule is
// in package owned); it must be a regular file of at most 1 MiB. A violation is an [*Error].
func ReadTrusted(path string) ([]byte, error) {
	real, err := owned.Resolve(path)
	if err != nil {
		return nil, untrusted(err)
	}
	// Without O_NONBLOCK, a FIFO in the file's place would stop the start.
	f, err := os.OpenFile(real, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{File: path, Problems: []string{"not a regular file"}}
	}
	if err := owned.Check(real, info); err != nil {
		return nil, untrusted(err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(data) > maxFileBytes {
		return nil, &Error{File: path, Problems: []string{fmt.Sprintf("the file has more than %d bytes", maxFileBytes)}}
	}
	return data, nil
}

// untrusted is the error for a file that another user could have written: its content grants
// access.
func untrusted(err error) error {
	if fault, ok := errors.AsType[*owned.Error](err); ok {
		return &Error{File: fault.Path, Problems: []string{fault.Problem}}
	}
	return fmt.Errorf("reading: %w", err)
}

// Default is the configuration of an empty file. It has no identities, which a file must have.
func Default() *Config {
	cfg := defaults()
	return &cfg
}

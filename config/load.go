package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"
)

// Error lists everything that is wrong with a configuration, so that an
// operator mends it in one go.
type Error struct {
	File     string
	Problems []string // each names the setting or the line
}

func (e *Error) Error() string {
	return e.File + ": " + strings.Join(e.Problems, "\n"+e.File+": ")
}

// Load reads and checks the file at path.
func Load(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
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

// yamlProblems unpacks the decoder's findings about data, one a line, and puts our words
// in place of Go's type names.
func yamlProblems(data []byte, err error) []string {
	var typeErr *yaml.TypeError
	if !errors.As(err, &typeErr) {
		return []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	problems := make([]string, len(typeErr.Errors))
	for i, text := range typeErr.Errors {
		problems[i] = yamlProblem(data, text)
	}
	return problems
}

func yamlProblem(data []byte, text string) string {
	field, _, ok := strings.Cut(text, " not found in type ")
	if !ok {
		return misshapen(data, text)
	}
	text = strings.Replace(field, "field ", "unknown setting ", 1)
	if isSecret(text) {
		text += ": " + takesNoSecrets()
	}
	return text
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

// ReadTrusted reads a file that decides whom the agent trusts: the configuration,
// or certificate authorities that it names. The file and its directory must belong
// to root or to the agent's user, and nobody else may write them; it must be a
// regular file of at most 1 MiB. A violation is an [*Error].
func ReadTrusted(path string) ([]byte, error) {
	if err := checkDirectory(filepath.Dir(path)); err != nil {
		return nil, err
	}
	// Without O_NONBLOCK, a FIFO in the file's place would stop the start.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
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
	if err := checkOwner(path, info); err != nil {
		return nil, err
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

// checkDirectory refuses a directory in which another user could put another file
// in the place of one that was checked. In a sticky one, such as /tmp, he cannot.
func checkDirectory(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if info.Mode()&fs.ModeSticky != 0 {
		return nil
	}
	return checkOwner(dir, info)
}

// checkOwner refuses what another user could have written: it grants access.
func checkOwner(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return &Error{File: path, Problems: []string{"its owner cannot be determined"}}
	}
	if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return &Error{File: path, Problems: []string{fmt.Sprintf("owned by uid %d; it must belong to root or to the agent's user (chown root %s)", stat.Uid, path)}}
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return &Error{File: path, Problems: []string{fmt.Sprintf("mode %04o lets others write it (chmod go-w %s)", perm, path)}}
	}
	return nil
}

// Default is the configuration of a file that says nothing. It has no identities, which a file must have.
func Default() *Config {
	cfg := defaults()
	return &cfg
}

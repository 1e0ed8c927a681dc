package policyfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyagent/keyagent/attest"
)

// Limits of a policy and of each file that it names, in bytes.
const (
	maxPolicyBytes = 256 << 10
	maxNamedBytes  = 1 << 20
)

// Policy is what a verifier goes by.
type Policy struct {
	Rules   attest.Policy
	Anchors attest.TrustAnchors
	Origin  Origin
}

// Origin says where a policy comes from.
type Origin struct {
	File   string // empty: the default policy
	SHA256 string // hexadecimal digest of the file's bytes; those that it names are not in it
	Named  []Named
}

// Named is a file of anchors that a policy names.
type Named struct{ Member, File, SHA256 string }

// Default is attest.DefaultPolicy with the built-in anchors.
func Default() Policy {
	return Policy{Rules: attest.DefaultPolicy(), Anchors: attest.DefaultTrustAnchors()}
}

// Error lists all that is wrong with a policy file.
type Error struct {
	File     string
	Problems []Problem
}

// Problem is one fault of a file.
type Problem struct {
	Line int    // 0: the file as a whole
	What string // the member, and what is wrong with it
	Do   string // what to write
}

func (p Problem) String() string {
	text := p.What
	if p.Line > 0 {
		text = fmt.Sprintf("line %d: %s", p.Line, p.What)
	}
	if p.Do != "" {
		text += "; " + p.Do
	}
	return text
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = e.File + ": " + p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads the policy at path and the files that it names, whose paths are relative to its
// directory. Faults of the content are an [*Error].
func Load(path string) (*Policy, error) {
	data, err := readFile(path, maxPolicyBytes)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	dir := filepath.Dir(path)
	return Parse(path, data, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return readFile(name, maxNamedBytes)
	})
}

// Parse reads a policy; name is for messages. read returns the content of a file that the policy
// names, by its path as written there.
func Parse(name string, data []byte, read func(path string) ([]byte, error)) (*Policy, error) {
	if len(data) > maxPolicyBytes {
		return nil, &Error{name, []Problem{{What: fmt.Sprintf("the file has more than %d bytes", maxPolicyBytes)}}}
	}
	p := Default()
	sum := sha256.Sum256(data)
	p.Origin = Origin{File: name, SHA256: hex.EncodeToString(sum[:])}
	root, problem := document(data)
	if problem != nil {
		return nil, &Error{name, []Problem{*problem}}
	}
	d := &decoder{}
	if root != nil {
		d.policy(root, &p, read)
	}
	if len(d.problems) > 0 {
		return nil, &Error{name, d.problems}
	}
	return &p, nil
}

// document returns the one document of a file, or nil if there is nothing but comments.
func document(data []byte) (*yaml.Node, *Problem) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, notYAML(data, err)
	}
	var more yaml.Node
	switch err := dec.Decode(&more); {
	case err == nil:
		return nil, &Problem{Line: more.Line, What: "a second document begins here", Do: "take it out, or verify with one file at a time"}
	case !errors.Is(err, io.EOF):
		return nil, notYAML(data, err)
	}
	if len(doc.Content) != 1 {
		return nil, nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" && root.Value == "" {
		return nil, nil
	}
	return root, nil
}

// notYAML says where the parser stopped and, for the usual cause, what to do.
func notYAML(data []byte, err error) *Problem {
	p := &Problem{What: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if n, scanErr := fmt.Sscanf(p.What, "not YAML: line %d: ", &p.Line); n == 1 && scanErr == nil {
		_, rest, _ := strings.Cut(strings.TrimPrefix(p.What, "not YAML: "), ": ")
		p.What = "not YAML: " + rest
	}
	for i, line := range bytes.Split(data, []byte("\n")) {
		indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if bytes.ContainsRune(indent, '\t') && strings.Contains(p.What, "token") {
			return &Problem{Line: i + 1, What: "a tab in the indentation", Do: "indent with spaces"}
		}
	}
	return p
}

// readFile reads a regular file or a pipe, up to a limit.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return data, nil
}

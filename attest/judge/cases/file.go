package cases

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/keyagent/keyagent/attest/internal/strictjson"
)

// Format names the layout of a file of cases. Another value is another format.
const Format = "azure-cvm-vectors/1"

// Limits, in bytes.
const (
	maxFileSize = 64 << 20
	maxPartSize = 1 << 20
)

// File is a file of cases. Paths in it are relative to its directory.
type File struct {
	name  string
	dir   string
	cases []json.RawMessage
	trust trust
	// problems are the faults of the file itself.
	problems []string
	// notes are what the file says that this program does not know.
	notes []string
}

// Case is one piece of evidence with its expected outcome. See testdata/azure-cvm/README.md.
type Case struct {
	ID            string                    `json:"id"`
	Why           string                    `json:"why"`
	Note          string                    `json:"note"` // for people
	Platform      string                    `json:"platform"`
	Parts         map[string]string         `json:"parts"`
	NonceHex      string                    `json:"nonce_hex"`
	Time          time.Time                 `json:"time"`
	Expect        string                    `json:"expect"`
	FailingCheck  string                    `json:"failing_check"`
	PassingChecks []string                  `json:"passing_checks"`
	Facts         map[string]map[string]any `json:"facts"`
	Policy        Policy                    `json:"policy"`

	// notes name the members of the case that this program does not know and that cannot change the
	// outcome.
	notes []string
}

// The values of Case.Expect.
const (
	expectVerified = "verified"
	expectRejected = "rejected"
	expectPartial  = "partial"
	expectParsed   = "parsed"
)

// The platforms of cases that ask for less than evidence of a Confidential VM.
const (
	parseOnly   = "parse-only"    // structure and claims hash
	tdQuoteOnly = "td-quote-only" // the processor's word, about nothing that the case has
	tpmOnly     = "tpm-only"      // a TPM without a TEE
)

// Open reads a file of cases, but no part of any of them.
func Open(name string) (*File, error) {
	data, err := readFile(name, maxFileSize)
	if err != nil {
		return nil, err
	}
	f := &File{name: name, dir: filepath.Dir(name)}
	if err := f.read(data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// read reads the outer object by hand: a case with a member that occurs twice must fail alone.
func (f *File) read(data []byte) error {
	members, err := outerMembers(data)
	if err != nil {
		return err
	}
	var format string
	if err := json.Unmarshal(members["format"], &format); err != nil || format != Format {
		return fmt.Errorf("format is %.60s, want %q", members["format"], Format)
	}
	if err := json.Unmarshal(members["cases"], &f.cases); err != nil || len(f.cases) == 0 {
		return errors.New("no list of cases")
	}
	for name, value := range members {
		switch name {
		case "format", "cases", "note":
		case "trust":
			f.trust, err = f.readTrust(value)
			if err != nil {
				f.problems = append(f.problems, "trust: "+err.Error())
			}
		default:
			f.notes = append(f.notes, fmt.Sprintf("member %.40q is not known", name))
		}
	}
	return nil
}

func outerMembers(data []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	members := map[string]json.RawMessage{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, ok := name.(string)
		if _, twice := members[key]; !ok || twice {
			return nil, fmt.Errorf("member %.40q occurs twice", key)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		members[key] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("bytes after the document")
	}
	return members, nil
}

// readCase reads one case. An unknown member of its policy is an error, because it could change the
// outcome; other unknown members are noted. The case is returned with the parts that could be read.
func readCase(raw []byte) (*Case, error) {
	c := &Case{}
	var named struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(raw, &named) == nil {
		c.ID = named.ID
	}
	if err := strictjson.UnmarshalOpen(raw, &Case{}); err != nil {
		return c, err
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &members); err != nil {
		return c, err
	}
	if policy, there := members["policy"]; there {
		if err := strictjson.Unmarshal(policy, &Policy{}); err != nil {
			return c, fmt.Errorf("policy: %w", err)
		}
	}
	// Numbers of facts keep their digits.
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(c); err != nil {
		return c, err
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if !slices.Contains(memberNames(), name) {
			c.note("member %.40q is not known", name)
		}
	}
	return c, c.check()
}

func (c *Case) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// memberNames are the members of a case.
func memberNames() []string {
	var names []string
	for field := range reflect.TypeFor[Case]().Fields() {
		if field.IsExported() {
			names = append(names, field.Tag.Get("json"))
		}
	}
	return names
}

func (c *Case) check() error {
	switch c.Platform {
	case "azure-sev-snp", "azure-tdx", tpmOnly, tdQuoteOnly, parseOnly:
	default:
		c.note("platform %.40q is not known: the parts decide", c.Platform)
	}
	switch c.Expect {
	case expectVerified, expectRejected, expectPartial, expectParsed:
	default:
		return fmt.Errorf("unknown expectation %.40q", c.Expect)
	}
	switch {
	case c.ID == "":
		return errors.New("no id")
	case len(c.Parts) == 0:
		return errors.New("no parts")
	case c.Time.IsZero():
		return errors.New("no time to verify at")
	case c.FailingCheck != "" && c.Expect != expectRejected:
		return fmt.Errorf("a failing check, and %s is expected", c.Expect)
	}
	return nil
}

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", name, limit)
	}
	return data, nil
}

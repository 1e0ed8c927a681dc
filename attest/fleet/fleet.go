package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/report"
)

// Suffix ends the names of files with evidence; others are not looked at.
const Suffix = ".json"

// maxFileBytes bounds what is read of a file; package attest has limits for each part.
const maxFileBytes = 4 << 20

// Config says what to verify.
type Config struct {
	Dir      string
	Question report.Question // but for File and Challenge, which differ by file
	// Challenge is what the file with this name must answer; nil: nothing, and it is not verified.
	Challenge func(name string) (*attest.Challenge, error)
	// Expected are the names of files that there must be, beyond those that are found.
	Expected    []string
	Workers     int  // at least 1
	SameMachine bool // several files may be of one machine
}

// Row is what came of one file.
type Row struct {
	Name   string // of the file, in the directory
	Report *report.Report
	Err    error  // the file or its challenge could not be read; then there is no report
	Twin   string // an earlier file of the same machine, unless that is allowed
}

// Verified says that nothing stands against the file.
func (r Row) Verified() bool { return r.Err == nil && r.Report.Verified && r.Twin == "" }

// Summary counts the rows.
type Summary struct {
	Format   string `json:"format"`
	Files    int    `json:"files"`
	Verified int    `json:"verified"`
	Rejected int    `json:"rejected"`
	Missing  int    `json:"missing"` // incomplete: nothing is wrong, but not all is there
	Failed   int    `json:"failed"`  // could not be read, or are not there
	Twins    int    `json:"same_machine"`
	Others   int    `json:"not_looked_at"` // not counted above: their names do not end in Suffix
	OK       bool   `json:"ok"`
}

// SummaryFormat names the version of the summary's JSON form.
const SummaryFormat = "keyagent-fleet/1"

// Verify verifies the files and calls each with one row after the other. It ends early if the
// context ends, if the directory cannot be read, or with the error of each.
func Verify(ctx context.Context, cfg Config, each func(Row) error) (Summary, error) {
	names, others, err := list(cfg.Dir)
	if err != nil {
		return Summary{}, err
	}
	for _, name := range cfg.Expected {
		if _, found := slices.BinarySearch(names, name); !found {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	cfg.Question.Anchors = cfg.Question.Anchors.Remembering()
	seen := machines{}
	sum := Summary{Format: SummaryFormat, Others: others}
	err = inOrder(ctx, cfg.Workers, names, cfg.verify, func(row Row) error {
		if !cfg.SameMachine {
			row.Twin = seen.twin(row)
		}
		sum.count(row)
		return each(row)
	})
	sum.OK = err == nil && sum.Files > 0 && sum.Verified == sum.Files
	return sum, err
}

// list returns the names of the files with evidence, sorted, and the number of the others.
func list(dir string) (names []string, others int, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, 0, err
	}
	defer d.Close()
	for {
		some, err := d.Readdirnames(1000)
		for _, name := range some {
			if strings.HasSuffix(name, Suffix) && !strings.HasPrefix(name, ".") {
				names = append(names, name)
			} else {
				others++
			}
		}
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names, others, nil
		}
		if err != nil {
			return nil, 0, err
		}
	}
}

// inOrder has the workers do each name, and takes the results in the order of the names. At most a
// few results wait for their turn.
func inOrder(ctx context.Context, workers int, names []string, do func(string) Row, take func(Row) error) error {
	type job struct {
		name string
		row  chan Row
	}
	group, ctx := errgroup.WithContext(ctx)
	jobs := make(chan job)
	turns := make(chan job, 4*workers)
	group.Go(func() error {
		defer close(jobs)
		defer close(turns)
		for _, name := range names {
			j := job{name, make(chan Row, 1)}
			for _, to := range []chan job{turns, jobs} {
				select {
				case to <- j:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	})
	for range workers {
		group.Go(func() error {
			for j := range jobs {
				j.row <- do(j.name)
			}
			return nil
		})
	}
	group.Go(func() error {
		for j := range turns {
			select {
			case row := <-j.row:
				if err := take(row); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return group.Wait()
}

func (cfg Config) verify(name string) Row {
	bundle, err := readFile(filepath.Join(cfg.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return Row{Name: name, Err: errors.New("there is no such file: this machine has not answered")}
	}
	if err != nil {
		return Row{Name: name, Err: err}
	}
	challenge, err := cfg.Challenge(name)
	if err != nil {
		return Row{Name: name, Err: err}
	}
	q := cfg.Question
	q.File, q.Challenge = name, challenge
	return Row{Name: name, Report: report.Verify(bundle, q)}
}

// readFile reads a regular file. A directory may have been filled by machines that are not trusted:
// a pipe in it must not stop us.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%d bytes, more than any evidence has", info.Size())
	}
	data := make([]byte, 0, info.Size()+1)
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		if len(data) == cap(data) {
			return nil, errors.New("the file grows while it is read")
		}
	}
}

// machines has the first verified file of each machine, by each of what tells machines apart.
type machines map[string]string

// twin returns the earlier file of the row's machine. One machine may have had several attestation
// keys, as state of a virtual TPM may not outlive a deallocation: its ID and its binding key, too,
// say that it is the same.
func (m machines) twin(row Row) string {
	if row.Report == nil || row.Report.Facts == nil {
		return ""
	}
	marks := marks(row.Report.Facts)
	for _, mark := range marks {
		if earlier, known := m[mark]; known {
			return earlier
		}
	}
	for _, mark := range marks {
		m[mark] = row.Name
	}
	return ""
}

// marks are what no two machines have in common.
func marks(facts *report.Facts) []string {
	marks := []string{"ak " + facts.AKName}
	if strings.Trim(facts.VMID, "0-{} ") != "" {
		marks = append(marks, "vm "+strings.ToLower(facts.VMID))
	}
	if facts.Key != nil {
		marks = append(marks, "key "+facts.Key.SPKISHA256)
	}
	return marks
}

func (s *Summary) count(row Row) {
	s.Files++
	switch {
	case row.Err != nil:
		s.Failed++
	case row.Twin != "":
		s.Twins++
	case row.Report.Verified:
		s.Verified++
	case row.Report.Verdict == attest.Incomplete:
		s.Missing++
	default:
		s.Rejected++
	}
}

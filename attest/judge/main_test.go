package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func judged(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(args, &out, &errs)
	return status, out.String(), errs.String()
}

// write puts cases of one real quote into a file beside its parts.
func write(t *testing.T, expect string) string {
	t.Helper()
	dir := t.TempDir()
	for _, part := range []string{"quote.msg", "quote.sig", "ak-public.pem", "pcrs.json"} {
		data, err := os.ReadFile(filepath.Join("../../testdata/azure-cvm/quote-only-2023", part))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, part), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := `{"format":"azure-cvm-vectors/1","cases":[{"id":"q\u001b[2J","platform":"tpm-only","expect":"` + expect + `",
		"nonce_hex":"6368616c6c656e6765","time":"2024-06-01T00:00:00Z",
		"parts":{"quote":"quote.msg","quote-signature":"quote.sig","ak-public":"ak-public.pem","pcrs":"pcrs.json"}}]}`
	name := filepath.Join(dir, "cases.json")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestExitStatusSaysWhetherAllCameOut(t *testing.T) {
	t.Parallel()
	good, bad := write(t, "partial"), write(t, "verified")
	for name, tt := range map[string]struct {
		args   []string
		status int
		want   string // in either output
	}{
		"as expected":      {[]string{"-cases", good}, 0, "1 of 1 cases came out as expected"},
		"as JSON":          {[]string{"-cases", good, "-json"}, 0, `"as_expected": true`},
		"not as expected":  {[]string{"-cases", bad}, 1, "got partial, expected verified"},
		"so in JSON":       {[]string{"-json", "-cases", bad}, 1, `"as_expected": false`},
		"no file":          {nil, 2, "usage"},
		"a file too many":  {[]string{"-cases", good, bad}, 2, "usage"},
		"an unknown flag":  {[]string{"-case", good}, 2, "flag"},
		"no such file":     {[]string{"-cases", good + "x"}, 2, "no such file"},
		"a file of others": {[]string{"-cases", "../../go.mod"}, 2, "not a JSON object"},
	} {
		status, stdout, stderr := judged(tt.args...)
		if status != tt.status || !strings.Contains(stdout+stderr, tt.want) {
			t.Errorf("%s: status %d, want %d\n%s%s", name, status, tt.status, stdout, stderr)
		}
	}
}

// What a file of cases says cannot move the terminal's cursor, and is valid JSON.
func TestTheOutputIsTheProgramsOwn(t *testing.T) {
	t.Parallel()
	name := write(t, "partial")
	if _, stdout, _ := judged("-cases", name); strings.Contains(stdout, "\x1b") {
		t.Errorf("an escape sequence of the file: %q", stdout)
	}
	_, stdout, _ := judged("-cases", name, "-json")
	var report struct {
		Format string
		Cases  []struct {
			ID, Expected, Got string
			Checks            []struct{ Check, Status string }
		}
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Cases) != 1 || report.Cases[0].Got != "partial" || len(report.Cases[0].Checks) == 0 {
		t.Errorf("%+v", report)
	}
}

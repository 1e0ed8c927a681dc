package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestVersionsSortAsMeant(t *testing.T) {
	t.Parallel()
	when := time.Date(2026, 12, 1, 3, 14, 25, 0, time.UTC)
	sorted := []struct{ described, version string }{
		{"devel", "0.0.0~devel"},
		{"414eb80", "0.0.0~git20261201.031425.414eb80"},
		{"414eb80-dirty", "0.0.0~git20261201.031425.414eb80+dirty"},
		{"v1.2.3-rc.1", "1.2.3~rc.1"},
		{"v1.2.3-rc.1-4-gabcdef0", "1.2.3~rc.1+4.gabcdef0"},
		{"v1.2.3-rc.2", "1.2.3~rc.2"},
		{"v1.2.3", "1.2.3"},
		{"v1.2.3-5-gabcdef0", "1.2.3+5.gabcdef0"},
		{"v1.2.3-5-gabcdef0-dirty", "1.2.3+5.gabcdef0+dirty"},
		{"v1.2.4", "1.2.4"},
		{"v1.10.0", "1.10.0"},
	}
	for i, tt := range sorted {
		if got := packageVersion(tt.described, when); got != tt.version {
			t.Errorf("%s: %s, and not %s", tt.described, got, tt.version)
		}
		if dpkg, err := exec.LookPath("dpkg"); err == nil && i > 0 {
			if err := exec.CommandContext(t.Context(), dpkg, "--compare-versions", sorted[i-1].version, "lt", tt.version).Run(); err != nil {
				t.Errorf("dpkg does not take %s for older than %s", sorted[i-1].version, tt.version)
			}
		}
	}
	if got := packageVersion("my branch/x", when); got != "0.0.0~my.branch.x" {
		t.Errorf("of a name that is no version: %s", got)
	}
}

const changes = `# Changelog

What a user notices.

## Unreleased

### Added

* One ` + "`thing`" + ` ([docs](docs/x.md)), which takes more words than go on one line of a changelog of Debian's.
* Another.

## 1.0.0 (2026-11-30)

* The first.
`

func TestTheChangelogIsThatOfThePackagedVersion(t *testing.T) {
	t.Parallel()
	want := `keyagent (1.1.0-1) unstable; urgency=medium

  * One thing (docs), which takes more words than go on one line of a changelog
    of Debian's.
  * Another.

 -- The keyagent authors <keyagent@users.noreply.github.com>  Tue, 01 Dec 2026 00:00:00 +0000

keyagent (1.0.0-1) unstable; urgency=medium

  * The first.

 -- The keyagent authors <keyagent@users.noreply.github.com>  Mon, 30 Nov 2026 00:00:00 +0000
`
	if got := generate(t, changes, "changelog", "deb", "1.1.0", "1796083200"); got != want {
		t.Errorf("the changelog is\n%s\nand not\n%s", got, want)
	}
	released := strings.Replace(changes, "## Unreleased", "## 1.1.0 (2026-12-01)", 1)
	if got := generate(t, released, "changelog", "deb", "1.1.0", "1796083200"); got != want {
		t.Errorf("of a release, the changelog is\n%s\nand not\n%s", got, want)
	}
	later := generate(t, released, "changelog", "deb", "1.1.0+1.gabc", "1796083200")
	if !strings.HasPrefix(later, "keyagent (1.1.0+1.gabc-1) unstable; urgency=medium\n\n  * No changes that users notice.\n") {
		t.Errorf("without changes, the changelog begins\n%.200s", later)
	}
	if _, err := readChangelog(strings.NewReader("## soon\n"), "1", time.Time{}); err == nil {
		t.Error("a heading that is none was taken")
	}
}

func generate(t *testing.T, in string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), args, strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Debian's parser reads the changelog that we have.
func TestTheChangelogOfTheTreeCanBeRead(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	log := generate(t, string(text), "changelog", "deb", "9.9.9", "1796083200")
	for line := range strings.SplitSeq(log, "\n") {
		if len(line) > 80 && !strings.HasPrefix(line, " -- ") && len(strings.Fields(line)) > 2 {
			t.Errorf("too long: %s", line)
		}
	}
	if !strings.HasPrefix(log, "keyagent (9.9.9-1) unstable; urgency=medium\n\n  * ") {
		t.Errorf("the changelog begins\n%.200s", log)
	}
}

func TestEachLinkedModuleHasItsLicenceInTheNotice(t *testing.T) {
	t.Parallel()
	notice := generate(t, "", "notice", "../../cmd/keyagent")
	for _, part := range []string{
		"\ngithub.com/google/go-tpm v", "\ngithub.com/spf13/cobra v", "\nGo (standard library and runtime) go1.", "Redistribution and use in source and binary forms",
	} {
		if !strings.Contains(notice, part) {
			t.Errorf("the notice has no %q", part)
		}
	}
	if strings.Contains(notice, "go-tpm-tools") {
		t.Error("the notice has a module that is not linked")
	}
	if err := writeLicences(linked{"example.com/none", "v1.0.0", t.TempDir()}, &bytes.Buffer{}); err == nil {
		t.Error("a module without a licence was taken")
	}
}

func TestFilesWithTermsAreFoundByTheirNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"LICENSE", "license-apache.txt", "COPYING", "NOTICE", "PATENTS", "license.go", "README.md"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := licenceFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"COPYING", "LICENSE", "NOTICE", "PATENTS", "license-apache.txt"}; !slices.Equal(got, want) {
		t.Errorf("found %q, and not %q", got, want)
	}
}

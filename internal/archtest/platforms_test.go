package archtest_test

import (
	"bytes"
	"path"
	"regexp"
	"slices"
	"testing"
)

// platformNeutral are the packages that ask the platform of the evidence and name none, so that the
// next platform comes as new files.
var platformNeutral = []string{"attest", "attest/collect", "attest/maa", "attest/token"}

// platformFiles are the files of such a package that may name platforms: each platform's own, the
// list of them, and the package's story.
var platformFiles = regexp.MustCompile(`^((snp|tdx)(_[a-z]+)?|platforms|doc)\.go$`)

var platformName = regexp.MustCompile(`(?i)sev-?snp|snp|vcek|tdx|td_?quote`)

func TestOnlyItsOwnFilesNameAPlatform(t *testing.T) {
	named := map[string]bool{}
	for _, s := range sources(t) {
		if s.servesTests() || !slices.Contains(platformNeutral, s.dir()) {
			continue
		}
		if platformFiles.MatchString(path.Base(s.path)) {
			named[s.dir()] = named[s.dir()] || platformName.Match(s.bytes)
			continue
		}
		for _, at := range platformName.FindAllIndex(s.bytes, -1) {
			line := 1 + bytes.Count(s.bytes[:at[0]], []byte("\n"))
			t.Errorf("%s:%d names %q: ask the platform, and let its own file answer", s.path, line, s.bytes[at[0]:at[1]])
		}
	}
	if !named["attest"] {
		t.Error("no file of attest names a platform: does this test still look at the right files?")
	}
}

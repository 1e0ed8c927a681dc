package samples_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
)

// The app does not know its credential. So two samples that differ in nothing but that have the
// same programs.
func TestTheSamplesHaveTheSamePrograms(t *testing.T) {
	for _, name := range []string{"go/main.go", "python/daemon.py", "node/daemon.mjs"} {
		if read(t, certificateSample, name) != read(t, federatedSample, name) {
			t.Errorf("%s differs between the samples; copy it from one to the other", name)
		}
	}
}

func TestTheConfigurationsDifferInTheirCredentialAlone(t *testing.T) {
	var texts []string
	for _, sample := range samples() {
		text := read(t, sample, "config.yaml")
		if strings.Count(text, "# bound: never\n") != 1 {
			t.Errorf("%s: bound: never is not one line to be turned on", sample)
		}
		bound, unbound := parse(t, sample, asItIs(text)), parse(t, sample, neverBound(text))
		if got := bound.Identities[0].Application.Credentials[0].Bound; got != "" && got != config.BoundRequire {
			t.Errorf("%s: bound is %q as it is", sample, got)
		}
		if got := unbound.Identities[0].Application.Credentials[0].Bound; got != config.BoundNever {
			t.Errorf("%s: bound is %q with the line", sample, got)
		}
		bound.Identities[0].Application.Credentials = nil
		rest, err := bound.YAML()
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(rest))
	}
	if texts[0] != texts[1] {
		t.Errorf("without credentials they are\n%s\nand\n%s", texts[0], texts[1])
	}
}

func parse(t *testing.T, name, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse(name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// secretLike finds private keys, tokens and what goes by the name of a secret, and every long run
// of base64 or hexadecimal.
var secretLike = regexp.MustCompile(`(?i)PRIVATE KEY|-----BEGIN|\beyJ|secret["']?\s*[:=]|password|passwd|[A-Za-z0-9+_=-]{40,}`)

func TestNoSampleHoldsACredential(t *testing.T) {
	for _, sample := range append(samples(), execSample) {
		err := filepath.WalkDir(sample, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			content, err := os.ReadFile(name)
			for _, found := range secretLike.FindAll(content, -1) {
				t.Errorf("%s holds what looks like a credential: %s", name, found)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatLooksLikeACredential(t *testing.T) {
	for _, text := range []string{
		"-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN CERTIFICATE-----", "token = 'eyJhbGciOi'", "client_secret: x", `"ClientSecret": "x"`, "password=x",
		"MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ", "0123456789abcdef0123456789abcdef01234567",
	} {
		if !secretLike.MatchString(text) {
			t.Errorf("not found: %s", text)
		}
	}
	for _, text := range []string{"c0ffee00-0000-4000-8000-0000000000aa", "/metadata/identity/oauth2/token", "It holds no credential.", "body.access_token"} {
		if secretLike.MatchString(text) {
			t.Errorf("found without a reason: %s", text)
		}
	}
}

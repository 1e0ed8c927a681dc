// Package packaging_test tests what is in the packages, and the scripts that come with them. What
// needs the packages themselves is in packaging/check.
package packaging_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/config"
)

func TestTheExampleIsValidAndDeniesEverything(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Rules) != 0 || len(cfg.Admins.Users) != 0 || len(cfg.Admins.Groups) != 0 {
		t.Errorf("somebody may have something: rules %v, administrators %v", cfg.Rules, cfg.Admins)
	}
}

package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/confine"
)

// confine has the agent write in its own directories only, by Landlock, and logs whether it can.
func (s *service) confine(cfg *config.Config, activated bool) error {
	if !s.confined {
		return nil
	}
	below := []string{cfg.StateDir, os.TempDir()} // programs that it starts may need the latter
	if !activated {
		below = append(below, filepath.Dir(cfg.Socket))
		if admin := cfg.Endpoints.Admin; admin != nil && admin.Socket != "" {
			below = append(below, filepath.Dir(admin.Socket))
		}
	}
	if path := cfg.Audit.Path(); path != "" {
		below = append(below, filepath.Dir(path))
	}
	// Not the TPM's device alone: it is another file when the TPM was gone and is back.
	err := confine.Writing(below, []string{"/dev"})
	switch {
	case err == nil:
		s.options.Logger.Info("the agent writes in its own directories only from now on (Landlock)", "directories", below)
	case errors.Is(err, confine.ErrNoLandlock), errors.Is(err, confine.ErrTooOld), errors.Is(err, confine.ErrMaySee):
		s.options.Logger.Info("Landlock is not used", "cause", err)
	default:
		return err
	}
	return nil
}

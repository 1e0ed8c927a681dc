package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/config"
)

// tellLimits says in one line what this agent will not be able to do on this machine, before
// anything fails for it.
func (d *Daemon) tellLimits(ctx context.Context) {
	limits := d.limits()
	if len(limits) == 0 {
		return
	}
	d.opts.Logger.WarnContext(ctx, "limits of this agent on this machine", slog.Any("limits", limits))
}

func (d *Daemon) limits() (limits []string) {
	if err := tpmAccess(d.cfg); err != nil {
		limits = append(limits, err.Error())
	}
	if err := d.machine.level.TCP; err != nil {
		limits = append(limits, fmt.Sprintf("callers over loopback are not known: %v", err))
	}
	if err := d.machine.level.UnixUnits(); err != nil {
		limits = append(limits, fmt.Sprintf("the units of callers are not known, so no rule may name one: %v", err))
	}
	return limits
}

// tpmAccess says why the TPM cannot be opened, as far as its device tells without being opened.
func tpmAccess(cfg *config.Config) error {
	path := strings.TrimPrefix(cfg.TPM, "device:")
	if cfg.BindingKey.InsecureSoftware || !strings.HasPrefix(path, "/") {
		return nil
	}
	err := unix.Access(path, unix.R_OK|unix.W_OK)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the TPM cannot be used: this user may not open %s, as it is not in the group of the device, usually tss", path)
	case err != nil:
		return fmt.Errorf("the TPM cannot be used: %s: %w", path, err)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/waiting"
)

const (
	// reloadPause is between two questions whether the reload has ended.
	reloadPause = 50 * time.Millisecond
	// reloadTimeout is below what the service manager waits for a reload.
	reloadTimeout = 50 * time.Second
	// mainPID is the variable in which the service manager names the process that it wants to have
	// reloaded (systemd.service(5), ExecReload=).
	mainPID = "MAINPID"
)

func (a *app) reloadCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the agent read its configuration again, and say what came of it",
		Long: `Have the agent that runs read its configuration again (SIGHUP), and wait until that is
done. Exit code 0 means that the new configuration is in force, 1 that it was refused, and
why: the one before stays in force then.

Only root and the agent's own user may do this. keyagent config check says beforehand
whether a configuration can be used.`,
		Example: "  keyagent config check && keyagent reload\n  systemctl reload keyagent.service",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent, unread := a.agentForReload(cmd)
			defer func() { _ = agent.Close() }() // which there always is
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			err := reload(ctx, agent)
			if errors.Is(err, client.ErrNotReachable) && unread != nil {
				err = fmt.Errorf("%w (the configuration, which may name another socket, cannot be used: %w)", err, unread)
			}
			if errors.Is(err, context.DeadlineExceeded) && cmd.Context().Err() == nil {
				err = advice.To(fmt.Errorf("the reload has not ended within %v", timeout), "see what the agent waits for: %s", advice.Run(advice.ShowStatus, ""))
			}
			return err
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", reloadTimeout, "how long to wait for it")
	return cmd
}

// agentForReload finds the agent at the socket for administrators, if the configuration has one at
// which somebody listens, else at its own. A configuration that is to be refused names none: then
// unread says why.
func (a *app) agentForReload(cmd *cobra.Command) (agent *client.Client, unread error) {
	if a.socket == "" && os.Getenv(wire.EnvSocket) == "" {
		cfg, err := config.Load(a.configPath)
		unread = err
		if err == nil && cfg.Endpoints.Admin != nil && cfg.Endpoints.Admin.Socket != "" {
			admin := client.New(client.Config{Socket: cfg.Endpoints.Admin.Socket})
			if _, err := admin.Status(cmd.Context()); err == nil {
				return admin, nil
			}
			_ = admin.Close()
		}
		if err == nil {
			return client.New(client.Config{Socket: cfg.Socket}), nil
		}
	}
	return client.New(client.Config{Socket: a.socket}), unread
}

// reload has the agent reload, and waits until a reload has ended that began after this was called.
func reload(ctx context.Context, agent *client.Client) error {
	process, before, err := agentProcess(ctx, agent)
	if err != nil {
		return err
	}
	defer func() { _ = process.Release() }()
	if err := process.Signal(syscall.SIGHUP); err != nil {
		err = fmt.Errorf("asking the agent, process %d, to reload: %w", before.PID, err)
		if errors.Is(err, fs.ErrPermission) {
			err = advice.To(err, "run it as root, or as the user that the agent runs as")
		}
		return err
	}
	for {
		if err := waiting.Sleep(ctx, reloadPause); err != nil {
			return err
		}
		now, err := agent.Status(ctx)
		if err != nil {
			return err
		}
		if over, err := outcome(before, now); over {
			return err
		}
	}
}

// agentProcess returns the process of the agent, which it holds so that no other one is signalled,
// and the status that it had then.
func agentProcess(ctx context.Context, agent *client.Client) (*os.Process, wire.Status, error) {
	first, err := agent.Status(ctx)
	if err != nil {
		return nil, first, err
	}
	if wanted := os.Getenv(mainPID); wanted != "" && wanted != strconv.Itoa(first.PID) {
		return nil, first, fmt.Errorf("the agent at %s is process %d, and it is process %s that is to reload (%s)", agent.Socket(), first.PID, wanted, mainPID)
	}
	process, err := os.FindProcess(first.PID)
	if err != nil {
		return nil, first, fmt.Errorf("the agent's process %d: %w", first.PID, err)
	}
	if err := isAgent(first.PID); err != nil {
		return nil, first, errors.Join(err, process.Release())
	}
	again, err := agent.Status(ctx)
	if err == nil && again.PID != first.PID {
		err = errors.New("the agent has been restarted meanwhile, and has read its configuration then")
	}
	if err != nil {
		return nil, again, errors.Join(err, process.Release())
	}
	return process, again, nil
}

// isAgent refuses to signal a process that is not known to be an agent: whoever answers at the
// socket says what number it has, and root's signal ends any program. It is one if the service
// manager says so, or if it runs this program. A user's signal goes to their own processes only,
// whose program the kernel does not always tell them. The process must be held meanwhile.
func isAgent(pid int) error {
	if os.Getenv(mainPID) == strconv.Itoa(pid) {
		return nil
	}
	this, err := os.Stat("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("finding out which program this is: %w", err)
	}
	its, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return nil
	case err != nil:
		err = fmt.Errorf("process %d, which the socket names as the agent, is not signalled: which program it runs is not known: %w", pid, err)
	case !os.SameFile(this, its):
		err = fmt.Errorf("process %d, which the socket names as the agent, is not signalled: it does not run this program", pid)
	default:
		return nil
	}
	return advice.To(err, "after an update, or if the agent runs in a container, have the service manager name the process: systemctl reload keyagent.service")
}

// outcome says whether a reload is over that was begun after a status, and what came of it.
func outcome(before, now wire.Status) (over bool, err error) {
	was, is := before.Configuration, now.Configuration
	if now.PID != before.PID {
		return true, errors.New("the agent has ended and was started again: its log says what came of the configuration")
	}
	needed := was.Reloads + was.Refused + 1
	if was.Reloading {
		needed++ // that one may have read the file before it was changed
	}
	if is.Reloads+is.Refused < needed {
		return false, nil
	}
	if last := is.LastReload; last != nil && last.Error != "" {
		stays := "the one before stays in force"
		if is.Since.IsZero() {
			stays = "nothing is served, as before"
		}
		return true, configurationRefused{fmt.Errorf("the configuration was refused, and %s: %s", stays, last.Error)}
	}
	return true, nil
}

// configurationRefused is what the agent said of its configuration.
type configurationRefused struct{ error }

package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  keyagent version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return json.NewEncoder(a.out).Encode(map[string]string{
					"version": version, "go": runtime.Version(), "platform": platform(),
				})
			}
			return a.printVersion()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) printVersion() error {
	_, err := fmt.Fprintf(a.out, "keyagent %s\n", versionText())
	return err
}

func versionText() string { return fmt.Sprintf("%s (%s, %s)", version, runtime.Version(), platform()) }

func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

package main

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// versionReport is what a report of a fault should say of the program. It is part of the command
// line's contract.
type versionReport struct {
	Version  string            `json:"version"`
	Commit   string            `json:"commit,omitempty"`
	Go       string            `json:"go"`
	Platform string            `json:"platform"`
	Build    map[string]string `json:"build"` // flags and variables of the build that the Go command notes
}

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print version, commit and build flags",
		Long: `Print the version, the commit that it was built from, and the flags that it was built
with: whoever builds that commit with the same Go and the same flags gets the same bytes.`,
		Example: "  keyagent version\n  keyagent version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			report := describeBuild(debug.ReadBuildInfo())
			if asJSON {
				return a.printJSONLine(report)
			}
			_, err := fmt.Fprint(a.out, report.text())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// describeBuild tells what the linker and the Go command noted in the program. A build by go
// install has no commit from the linker, but may have one from the Go command.
func describeBuild(info *debug.BuildInfo, noted bool) versionReport {
	r := versionReport{Version: version, Commit: commit, Go: runtime.Version(), Platform: platform(), Build: map[string]string{}}
	if !noted {
		return r
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			r.Commit = cmp.Or(r.Commit, s.Value)
		case strings.HasPrefix(s.Key, "vcs"), s.Value == "":
		default:
			r.Build[s.Key] = s.Value
		}
	}
	return r
}

func (r versionReport) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "keyagent %s\n", versionText())
	if r.Commit != "" {
		fmt.Fprintf(&b, "commit %s\n", r.Commit)
	}
	var flags []string
	for _, name := range slices.Sorted(maps.Keys(r.Build)) {
		flags = append(flags, name+"="+r.Build[name])
	}
	if len(flags) > 0 {
		fmt.Fprintf(&b, "built with %s\n", strings.Join(flags, " "))
	}
	return b.String()
}

func versionText() string { return fmt.Sprintf("%s (%s, %s)", version, runtime.Version(), platform()) }

func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// printVersion prints the line that --version prints.
func (a *app) printVersion() error {
	_, err := fmt.Fprintf(a.out, "keyagent %s\n", versionText())
	return err
}

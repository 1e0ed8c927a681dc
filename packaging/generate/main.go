// Command generate makes the texts of a package that are made of something else: the package's
// version of what git says, its changelog of CHANGELOG.md, and its notice of the licences of all
// that is linked into the program. packaging/build runs it.
//
// Each writes to standard output, and the same for the same commit: the only time is the one that
// is given.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

const usage = `usage: generate version DESCRIBED EPOCH      version for packages, of what git describe says
       generate changelog deb VERSION EPOCH  changelog as dpkg has it, of CHANGELOG.md on standard input
       generate changelog rpm VERSION EPOCH  the same for nfpm, which puts it into an rpm's header
       generate notice PACKAGE               licences of what is linked into a program
EPOCH is the commit's time, in seconds since 1970.`

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "generate: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	switch {
	case len(args) == 3 && args[0] == "version":
		when, err := commitTime(args[2])
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, packageVersion(args[1], when))
		return err
	case len(args) == 4 && args[0] == "changelog":
		write, known := changelogWriters[args[1]]
		if !known {
			return fmt.Errorf("%s", usage)
		}
		when, err := commitTime(args[3])
		if err != nil {
			return err
		}
		releases, err := readChangelog(in, args[2], when)
		if err != nil {
			return err
		}
		return write(out, releases)
	case len(args) == 2 && args[0] == "notice":
		return writeNotice(ctx, args[1], out)
	}
	return fmt.Errorf("%s", usage)
}

func commitTime(text string) (time.Time, error) {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("EPOCH %q: %w", text, err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

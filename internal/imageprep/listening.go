package imageprep

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// The fields of a line of /proc/net/unix (unix(7)), and the flag of a socket that listens.
const (
	unixFlags = 3
	unixPath  = 7
	listening = "00010000" // __SO_ACCEPTCON
)

// listens reports whether somebody listens at the path of a Unix socket. Nobody is connected to: a
// service manager that listens for the agent would start it. If that cannot be found out, it
// reports false.
func listens(path string) bool {
	file, err := os.Open("/proc/net/unix")
	if err != nil {
		return false
	}
	defer file.Close()
	return listensIn(file, filepath.Clean(path))
}

func listensIn(table io.Reader, path string) bool {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == unixPath+1 && fields[unixFlags] == listening && fields[unixPath] == path {
			return true
		}
	}
	return false
}

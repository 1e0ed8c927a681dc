package config

import (
	"cmp"
	"io/fs"
	"path/filepath"
	"strconv"
)

// maxSocketPath is what fits into sockaddr_un.
const maxSocketPath = 107

// AdminEndpoint is for whoever administers the agent, and for what watches it.
type AdminEndpoint struct {
	// Socket is the path of a Unix socket that serves status, metrics and health, and no tokens,
	// to those who may read the status. Default: none. The socket of the agent serves them to
	// administrators, too; this one can be given to a container or a monitoring program that must
	// not be able to ask for tokens.
	Socket string `yaml:"socket,omitempty"`
	// Mode is who can connect, as an octal number in quotes: the caller must be an administrator
	// besides. Default: "0666".
	Mode string `yaml:"mode,omitempty"`
	// Metrics is a loopback address and port, as in 127.0.0.1:9464, at which everybody on this
	// machine can read metrics and health over HTTP, without names of identities and
	// credentials, and without reasons. Default: none.
	Metrics string `yaml:"metrics,omitempty"`
}

// Permissions are those of the socket.
func (e *AdminEndpoint) Permissions() fs.FileMode {
	mode, err := strconv.ParseUint(cmp.Or(e.Mode, "0666"), 8, 32)
	if err != nil {
		return 0o600 // not reached: the configuration was checked
	}
	return fs.FileMode(mode)
}

// Path is the file that records go to, "" if they go elsewhere.
func (a Audit) Path() string {
	if a.To != AuditToFile {
		return ""
	}
	return cmp.Or(a.File, DefaultAuditFile)
}

func (c *Config) checkAudit(f *findings) {
	switch c.Audit.To {
	case AuditToStdout, AuditToJournald:
		if c.Audit.File != "" {
			f.add("audit.file: of use only with audit.to: %s", AuditToFile)
		}
	case AuditToFile:
		f.wantAbsolute("audit.file", c.Audit.Path())
	default:
		f.add("audit.to: %q is not %s, %s or %s", c.Audit.To, AuditToStdout, AuditToFile, AuditToJournald)
	}
}

func (e *AdminEndpoint) check(f *findings, at, agentSocket string) {
	if e.Socket == "" && e.Metrics == "" {
		f.add("%s: neither socket nor metrics is given", at)
	}
	if e.Socket != "" {
		f.wantAbsolute(at+".socket", e.Socket)
		if len(e.Socket) > maxSocketPath {
			f.add("%s.socket: path has %d bytes, the kernel takes at most %d", at, len(e.Socket), maxSocketPath)
		}
		if filepath.Clean(e.Socket) == filepath.Clean(agentSocket) {
			f.add("%s.socket: the same as socket, which serves administrators already", at)
		}
	}
	if e.Mode != "" {
		mode, err := strconv.ParseUint(e.Mode, 8, 32)
		if err != nil || mode > 0o777 {
			f.add(`%s.mode: %q is not an octal number of permissions, as in "0660"`, at, e.Mode)
		} else if e.Socket == "" {
			f.add("%s.mode: of use only with %[1]s.socket", at)
		}
	}
	if e.Metrics != "" {
		f.wantLoopback(at+".metrics", e.Metrics)
	}
}

package policyfile

import (
	"go.yaml.in/yaml/v3"

	"github.com/keyagent/keyagent/attest"
)

// sha256Size is the size of a digest of a variable's content, in bytes.
const sha256Size = 32

// eventLog reads the rules. Images are listed as the bank has them.
func (d *decoder) eventLog(n *yaml.Node, e *attest.EventLogPolicy, bank attest.PCRBank) {
	list := func(name string, to *[][]byte, size int) func(*yaml.Node) {
		return func(n *yaml.Node) {
			*to = d.digests(n, "event_log."+name, size)
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				d.empty(n, "event_log."+name)
			}
		}
	}
	images := func(name string, to *[][]byte) func(*yaml.Node) { return list(name, to, bank.Size()) }
	digests := func(name string, to *[][]byte) func(*yaml.Node) { return list(name, to, sha256Size) }
	d.mapping(n, "event_log", members{
		"require":                func(n *yaml.Node) { e.Require = d.flag(n, "event_log.require") },
		"secure_boot":            func(n *yaml.Node) { e.SecureBoot = d.flag(n, "event_log.secure_boot") },
		"boot_loaders":           images("boot_loaders", &e.BootLoaders),
		"forbidden_boot_loaders": images("forbidden_boot_loaders", &e.ForbiddenBootLoaders),
		"command_lines": func(n *yaml.Node) {
			e.CommandLines = d.texts(n, "event_log.command_lines", "write the whole line, in quotes")
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				d.empty(n, "event_log.command_lines")
			}
		},
		"pk":  digests("pk", &e.PK),
		"kek": digests("kek", &e.KEK),
		"db":  digests("db", &e.DB),
		"dbx": digests("dbx", &e.DBX),
	})
}

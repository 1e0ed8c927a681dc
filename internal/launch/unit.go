package launch

import (
	"errors"
	"fmt"
	"strings"
)

// Unit is the name of a systemd service, or of a template of services. The zero value is none.
type Unit struct{ name string }

// maxUnitBytes is UNIT_NAME_MAX of systemd, with the byte that ends it.
const maxUnitBytes = 255

// ParseUnit takes the name of a service, with or without ".service".
func ParseUnit(name string) (Unit, error) {
	prefix, isService := strings.CutSuffix(name, ".service")
	if !isService && strings.ContainsAny(prefix, ".") {
		for _, kind := range []string{".socket", ".timer", ".target", ".mount", ".path", ".slice", ".scope", ".swap", ".device", ".automount"} {
			if strings.HasSuffix(prefix, kind) {
				return Unit{}, fmt.Errorf("%q is not a service", name)
			}
		}
	}
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(`:-_.\@`, r)
	}
	switch {
	case prefix == "" || prefix == "." || prefix == ".." || strings.HasPrefix(prefix, "@") || strings.ContainsFunc(prefix, odd):
		return Unit{}, fmt.Errorf("%q is not the name of a systemd unit", name)
	case len(prefix)+len(".service") > maxUnitBytes:
		return Unit{}, errors.New("the name of the unit is too long")
	}
	return Unit{prefix}, nil
}

// String returns the unit's name.
func (u Unit) String() string { return u.name + ".service" }

// directory is what the directory for the file is called. A backslash must not be in it: systemd
// looks for an EnvironmentFile= by glob(7). So each instance of a template has its own by its name
// without escapes (%I).
func (u Unit) directory() string {
	if prefix, template := strings.CutSuffix(u.name, "@"); template {
		return strings.ReplaceAll(prefix, `\`, "_") + "@/%I"
	}
	return strings.ReplaceAll(u.name, `\`, "_")
}

// File is the unit's environment file. It is in a directory that systemd makes before the unit
// starts, gives to its user, and removes when it has stopped.
func (u Unit) File() string { return "/run/" + u.directory() + "/keyagent.env" }

// Path is where the drop-in belongs.
func (u Unit) Path() string { return "/etc/systemd/system/" + u.String() + ".d/50-keyagent.conf" }

// DropIn is what makes a unit have its environment written by a command before it starts, and
// looked at by another. The words of both are taken as they are, but for [Unit.File], which may be
// one of them.
//
// The file is optional because systemd reads it for the first command, too, when it is not there
// yet. It is also passed over then where systemd cannot read it, which the second command notices:
// the unit does not start where either fails.
func (u Unit) DropIn(write, look []string, families []Family) string {
	return fmt.Sprintf(`# %s
# Before each start the program's environment is written, with a secret for keyagent. The secret is of
# use to this unit only and ends with it; it outlives a restart of the agent.
[Unit]
Wants=keyagent.socket
After=keyagent.socket keyagent.service

[Service]
RuntimeDirectory=%s
ExecStartPre=%s
ExecStartPre=%s
EnvironmentFile=-%s
UnsetEnvironment=%s
`, u.Path(), u.directory(), u.commandLine(write), u.commandLine(look), u.File(), strings.Join(Foreign(families), " "))
}

func (u Unit) commandLine(command []string) string {
	words := make([]string, len(command))
	for i, word := range command {
		if words[i] = word; word != u.File() {
			words[i] = systemdWord(word)
		}
	}
	return strings.Join(words, " ")
}

// systemdWord makes one word of a text in a command line of a unit (systemd.service(5)).
func systemdWord(text string) string {
	text = strings.NewReplacer("%", "%%", "$", "$$").Replace(text)
	if text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune(`"'\;`, r)
	}) {
		return text
	}
	var quoted strings.Builder
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			quoted.WriteString(`\` + string(r))
		case isControl(r):
			fmt.Fprintf(&quoted, `\x%02x`, r)
		default:
			quoted.WriteRune(r)
		}
	}
	return `"` + quoted.String() + `"`
}

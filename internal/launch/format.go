package launch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/internal/shell"
)

// Form is how an environment is written down.
type Form string

// The forms. Only Export and JSON say what to unset: the others are read where nothing is
// inherited, or, by systemd, beside [Unit.DropIn].
const (
	Export  Form = "export"  // for a POSIX shell
	Dotenv  Form = "dotenv"  // NAME='value', as shells and .env readers have it
	Systemd Form = "systemd" // EnvironmentFile= of systemd.exec(5)
	Docker  Form = "docker"  // --env-file of docker and podman: nothing is quoted
	JSON    Form = "json"    // {"set": {NAME: value}, "unset": [NAME]}
)

// Forms are the names of all forms.
func Forms() []string {
	return []string{string(Export), string(Dotenv), string(Systemd), string(Docker), string(JSON)}
}

// ParseForm takes the name of a form.
func ParseForm(name string) (Form, error) {
	if !slices.Contains(Forms(), name) {
		return "", fmt.Errorf("%q is none of %s", name, strings.Join(Forms(), ", "))
	}
	return Form(name), nil
}

// Format writes the environment down, secrets in the clear.
func (e Environment) Format(form Form) ([]byte, error) {
	if form == JSON {
		return e.json()
	}
	var out bytes.Buffer
	if form == Export && len(e.Unset) > 0 {
		fmt.Fprintf(&out, "unset %s\n", strings.Join(e.Unset, " "))
	}
	for _, v := range e.Set {
		value := v.Value.Reveal()
		if strings.ContainsFunc(value, isControl) {
			return nil, fmt.Errorf("%s has a control character in it, which a line cannot carry", v.Name)
		}
		fmt.Fprintf(&out, "%s\n", line(form, v.Name, value))
	}
	return out.Bytes(), nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func line(form Form, name, value string) string {
	switch form {
	case Export:
		return "export " + name + "=" + shell.Quoted(value)
	case Docker:
		return name + "=" + value
	case Dotenv:
		if !strings.Contains(value, "'") {
			return name + "='" + value + "'"
		}
	case Systemd, JSON:
	}
	return name + "=" + doubleQuoted(value)
}

// doubleQuoted quotes a value so that a POSIX shell and an EnvironmentFile= read the same: within
// double quotes a backslash goes before these four characters.
func doubleQuoted(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`).Replace(value) + `"`
}

func (e Environment) json() ([]byte, error) {
	set := make(map[string]string, len(e.Set))
	for _, v := range e.Set {
		set[v.Name] = v.Value.Reveal()
	}
	text, err := json.MarshalIndent(map[string]any{"set": set, "unset": e.Unset}, "", "  ")
	return append(text, '\n'), err
}

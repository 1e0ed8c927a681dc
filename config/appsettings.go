package config

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
)

// appSettings are an app's settings, in any of the forms that .NET reads.
type appSettings struct {
	root      *settings
	env       bool     // they are variables of an environment
	elsewhere []string // names, with colons, whose values the file refers to and does not have
}

// readAppSettings reads an app's settings in each form that .NET has for them:
//
//   - appsettings.json: objects, in which a name may have colons (JsonConfigurationFileParser);
//   - an environment: lines NAME=VALUE, or an object or a list of variables, as the Azure portal,
//     az, and Kubernetes have it;
//   - local.settings.json of Azure Functions, whose "Values" are an environment.
func readAppSettings(data []byte) (appSettings, error) {
	if len(data) > maxFileBytes {
		return appSettings{}, fmt.Errorf("the settings have more than %d bytes", maxFileBytes)
	}
	text, err := decodeText(data)
	if err != nil {
		return appSettings{}, err
	}
	plain := plainJSON(text)
	switch start := bytes.TrimSpace(plain); {
	case len(start) == 0:
		return appSettings{}, errors.New("not JSON: there is nothing")
	case start[0] != '{' && start[0] != '[':
		return readLines(string(text))
	}
	if err := checkSyntax(plain); err != nil {
		return appSettings{}, err
	}
	var file jsonFile
	if err := file.read(plain); err != nil {
		return appSettings{}, err
	}
	switch {
	case file.list:
		return variablesOf(file.root.list())
	case file.flat && file.hasUnderscores():
		return environmentOf(&file.root)
	case file.root.at("Values").isSection() && (file.root.has("IsEncrypted") || file.hasUnderscores() || file.root.at("Values:AzureAd").isSection()):
		return file.functions()
	}
	return appSettings{root: &file.root}, nil
}

// decodeText returns the text as UTF-8. Without a byte order mark it is taken for that, as .NET
// does.
func decodeText(data []byte) ([]byte, error) {
	var text []byte
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe\x00\x00")):
		text = fromUTF32(data[4:], binary.LittleEndian)
	case bytes.HasPrefix(data, []byte("\x00\x00\xfe\xff")):
		text = fromUTF32(data[4:], binary.BigEndian)
	case bytes.HasPrefix(data, []byte("\xff\xfe")):
		text = fromUTF16(data[2:], binary.LittleEndian)
	case bytes.HasPrefix(data, []byte("\xfe\xff")):
		text = fromUTF16(data[2:], binary.BigEndian)
	default:
		text = bytes.TrimPrefix(data, []byte("\ufeff"))
	}
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, errors.New("not JSON: there are zero bytes in it, as in UTF-16 without a byte order mark; .NET does not read that either: save it as UTF-8")
	}
	return text, nil
}

func fromUTF16(data []byte, order binary.ByteOrder) []byte {
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = order.Uint16(data[2*i:])
	}
	return []byte(string(utf16.Decode(units)))
}

func fromUTF32(data []byte, order binary.ByteOrder) []byte {
	runes := make([]rune, len(data)/4)
	for i := range runes {
		runes[i] = rune(order.Uint32(data[4*i:])) //nolint:gosec // others become U+FFFD
	}
	return []byte(string(runes))
}

// readLines reads an environment as printenv prints it, and as files of variables have it: with
// comments, "export" and quotes.
func readLines(text string) (appSettings, error) {
	var b builder
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok {
			return appSettings{}, fmt.Errorf("line %d: not JSON, and not NAME=VALUE", number)
		}
		value = strings.TrimSpace(value)
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		if err := b.addVariable(strings.TrimSpace(name), value); err != nil {
			return appSettings{}, fmt.Errorf("line %d: %w", number, err)
		}
	}
	return appSettings{root: &b.root, env: true}, nil
}

// variablesOf makes an environment of a list: objects with a name and a value, or texts NAME=VALUE.
func variablesOf(entries []*settings) (appSettings, error) {
	var b builder
	var elsewhere []string
	for i, entry := range entries {
		name, value := entry.text("name"), entry.at("value")
		if entry.value != nil {
			name, value = "", nil
			if before, after, ok := strings.Cut(*entry.value, "="); ok {
				name, value = before, &settings{value: &after}
			}
		}
		if name == "" || value.isSection() {
			return appSettings{}, fmt.Errorf(`entry %d of the list is no setting: neither {"name": …, "value": …} nor "NAME=VALUE"`, i)
		}
		if value == nil || value.value == nil { // null, or valueFrom in its place
			elsewhere = append(elsewhere, strings.ReplaceAll(name, "__", ":"))
			continue
		}
		if err := b.addVariable(name, *value.value); err != nil {
			return appSettings{}, err
		}
	}
	return appSettings{&b.root, true, elsewhere}, nil
}

// environmentOf makes an environment of an object of variables.
func environmentOf(object *settings) (appSettings, error) {
	var b builder
	if err := b.addVariables(object, object.path); err != nil {
		return appSettings{}, err
	}
	return appSettings{root: &b.root, env: true}, nil
}

// addVariables adds every value below a node; their names begin behind a path.
func (b *builder) addVariables(node *settings, above string) error {
	if node.value != nil {
		if err := b.addVariable(strings.TrimPrefix(strings.TrimPrefix(node.path, above), ":"), *node.value); err != nil {
			return err
		}
	}
	for _, below := range node.list() {
		if err := b.addVariables(below, above); err != nil {
			return err
		}
	}
	return nil
}

// jsonFile is a tree from JSON.
type jsonFile struct {
	builder
	list bool // the file is a list
	flat bool // it is an object of nothing but single values
}

func (f *jsonFile) read(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	start, err := dec.Token()
	if err != nil {
		return errors.New("not JSON")
	}
	f.list, f.flat = start == json.Delim('['), start == json.Delim('{')
	return f.readBelow(dec, start, "", 1)
}

// readBelow reads the members of the object, or the elements of the list, that start began.
func (f *jsonFile) readBelow(dec *json.Decoder, start json.Token, path string, depth int) error {
	if depth > maxSettingsDepth {
		return fmt.Errorf("more than %d levels", maxSettingsDepth)
	}
	for i := 0; dec.More(); i++ {
		name := strconv.Itoa(i)
		if start == json.Delim('{') {
			key, err := dec.Token()
			if err != nil {
				return errors.New("not JSON")
			}
			name = fmt.Sprint(key)
		}
		if err := f.readValue(dec, join(path, name, depth), depth); err != nil {
			return err
		}
	}
	_, err := dec.Token() // the end
	return err
}

func (f *jsonFile) readValue(dec *json.Decoder, path string, depth int) error {
	token, err := dec.Token()
	if err != nil {
		return errors.New("not JSON")
	}
	switch value := token.(type) {
	case json.Delim:
		f.flat = false
		if err := f.add(path, nil); err != nil { // it may be empty, and is there all the same
			return err
		}
		return f.readBelow(dec, token, path, depth+1)
	case nil:
		return f.add(path, nil)
	default:
		text := fmt.Sprint(value)
		return f.add(path, &text)
	}
}

// hasUnderscores reports whether names are separated as in an environment.
func (f *jsonFile) hasUnderscores() bool {
	return len(f.root.find(func(s *settings) bool { return strings.Contains(s.name, "__") })) > 0
}

// functions makes an environment of local.settings.json. Members other than "Values" stay as they
// are.
func (f *jsonFile) functions() (appSettings, error) {
	if encrypted, err := f.root.flag("IsEncrypted"); err != nil || encrypted {
		return appSettings{}, errors.New("the values are encrypted (IsEncrypted): func settings decrypt writes them in the clear")
	}
	values := f.root.at("Values")
	delete(f.root.below, "values")
	if err := f.addVariables(values, values.path); err != nil {
		return appSettings{}, err
	}
	return appSettings{root: &f.root, env: true}, nil
}

// checkSyntax leaves out the part of the text that encoding/json quotes: it may be a secret.
func checkSyntax(data []byte) error {
	var whole json.RawMessage
	err := json.Unmarshal(data, &whole)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("line %d: not JSON", 1+bytes.Count(data[:syntax.Offset], []byte("\n")))
	}
	if err != nil {
		return errors.New("not JSON")
	}
	return nil
}

// plainJSON removes what .NET's JSON configuration allows and JSON does not: comments, and a comma
// after the last element. Line numbers stay the same.
func plainJSON(data []byte) []byte {
	plain := bytes.Clone(data)
	comma := -1       // of the last comma, if it stands behind an element and only space has followed
	last := byte('{') // the last character that is neither space nor in a comment
	for i := 0; i < len(plain); i++ {
		c := plain[i]
		switch {
		case bytes.HasPrefix(plain[i:], []byte("//")):
			i = blank(plain, i, bytes.IndexAny(plain[i:], "\r\n")) - 1
			continue
		case bytes.HasPrefix(plain[i:], []byte("/*")):
			i = blank(plain, i, 4+bytes.Index(plain[i+2:], []byte("*/"))) - 1
			continue
		case c <= ' ':
			continue
		case c == ',' && last != '{' && last != '[' && last != ',':
			comma = i
		case (c == '}' || c == ']') && comma >= 0:
			plain[comma], comma = ' ', -1
		default:
			comma = -1
		}
		if c == '"' {
			i = endOfString(plain, i)
		}
		last = c
	}
	return plain
}

// endOfString returns where the string that begins at start ends.
func endOfString(text []byte, start int) int {
	for i := start + 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return len(text)
}

// blank replaces a comment of length bytes by spaces, and returns the position after it. A length
// that no comment has means that it does not end: it is replaced up to the end of the text.
func blank(text []byte, start, length int) int {
	stop := start + length
	if length < 2 || length == 3 {
		stop = len(text)
	}
	for i := start; i < stop; i++ {
		if text[i] != '\n' {
			text[i] = ' '
		}
	}
	return stop
}

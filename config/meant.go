package config

import (
	"reflect"
	"strings"

	"github.com/keyagent/keyagent/internal/nearby"
)

// fewSettings is how many settings are listed where none is like the unknown one.
const fewSettings = 10

// meantIn says which setting was probably meant by one that a part of the file does not have. The
// part is given by the Go type that the decoder names.
func meantIn(goType, given string) string {
	t := typeNamed(goType, reflect.TypeFor[Config](), map[reflect.Type]bool{})
	if t == nil {
		return ""
	}
	there := settingsOf(t)
	if like := nearby.Names(given, there); len(like) > 0 {
		return ": did you mean " + strings.Join(like, " or ") + "?"
	}
	if len(there) <= fewSettings {
		return ": there are " + strings.Join(there, ", ") + " here"
	}
	return ""
}

// typeNamed finds a type of the file's parts by its name; nil if there is none.
func typeNamed(name string, from reflect.Type, seen map[reflect.Type]bool) reflect.Type {
	for from.Kind() == reflect.Pointer || from.Kind() == reflect.Slice {
		from = from.Elem()
	}
	switch {
	case from.String() == name:
		return from
	case from.Kind() != reflect.Struct || seen[from]:
		return nil
	}
	seen[from] = true
	for field := range from.Fields() {
		if found := typeNamed(name, field.Type, seen); found != nil {
			return found
		}
	}
	return nil
}

// settingsOf lists the settings of a part of the file.
func settingsOf(t reflect.Type) []string {
	var all []string
	for field := range t.Fields() {
		tag, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			all = append(all, settingsOf(field.Type)...)
		case tag != "" && tag != "-":
			all = append(all, tag)
		}
	}
	return all
}

package golden

import (
	"cmp"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

const ours = "github.com/caddy-doku/caddy-doku/"

// TestModulesAndTheirJSONFieldsAreTheSameAsBefore lists each module with the fields of its
// JSON. Types of ours are told by their fields, since their names are nobody's business.
func TestModulesAndTheirJSONFieldsAreTheSameAsBefore(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, id := range caddy.Modules() { // sorted
		if !strings.Contains(id, "doku") {
			continue
		}
		info, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, id)
		writeFields(&b, "\t", reflect.TypeOf(info.New()))
	}
	doktest.Golden(t, "modules.txt", b.String())
}

// writeFields writes a line for each JSON field of a struct: its name and its options, its
// type, and the namespace if it holds a module.
func writeFields(b *strings.Builder, indent string, of reflect.Type) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		of = of.Elem()
	}
	for field := range of.Fields() {
		tag := field.Tag.Get("json")
		switch {
		case tag == "-", !field.IsExported() && !field.Anonymous:
		case field.Anonymous && tag == "" && isOurs(field.Type):
			writeFields(b, indent, field.Type)
		case field.Anonymous && tag == "":
			fmt.Fprintf(b, "%s(all of %s)\n", indent, field.Type)
		default:
			fmt.Fprintf(b, "%s%s %s", indent, cmp.Or(tag, field.Name), typeName(field.Type))
			if module := field.Tag.Get("caddy"); module != "" {
				fmt.Fprintf(b, " (%s)", module)
			}
			b.WriteByte('\n')
			if isOurs(field.Type) {
				writeFields(b, indent+"\t", field.Type)
			}
		}
	}
}

// isOurs reports whether a type is a struct of this module, or a list of them.
func isOurs(of reflect.Type) bool {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		of = of.Elem()
	}
	return of.Kind() == reflect.Struct && strings.HasPrefix(of.PkgPath()+"/", ours)
}

// typeName returns the name of a type, without that of a struct of ours.
func typeName(of reflect.Type) string {
	if !isOurs(of) {
		return of.String()
	}
	name := of.String()
	star := strings.LastIndexAny(name, "*]") + 1
	return name[:star] + "struct"
}

/** Makes elements, and keeps lists of them in step with what they show. It parses no markup. */

/** Return the element of an id. */
export const byId = (id) => document.getElementById(id);

/**
 * Return a new element.
 *
 * @param {string} tag
 * @param {object} properties set on the element; `aria-` and `data-` ones are attributes
 * @param {...(Node | string)} children a string is text, never markup
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name.startsWith("aria-") || name.startsWith("data-") || name === "role") {
      element.setAttribute(name, value);
    } else {
      element[name] = value;
    }
  }
  element.append(...children);
  return element;
}

/** Set an element's text, unless it is that already: a live region would be read again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Make the children of a list those of some items, in their order; an item that stays keeps its
 * element, and with it focus and selection.
 *
 * @param {Element} parent whose children have a `key`
 * @param {{key: string, make: () => Element, update: (element: Element) => void}[]} items
 */
export function reconcile(parent, items) {
  const old = new Map(Array.from(parent.children, (child) => [child.key, child]));
  let next = parent.firstElementChild;
  for (const { key, make, update } of items) {
    let element = old.get(key);
    if (element === undefined) {
      element = make();
      element.key = key;
    }
    old.delete(key);
    update(element);
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  }
  for (const element of old.values()) element.remove();
}
